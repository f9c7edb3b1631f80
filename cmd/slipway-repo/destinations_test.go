package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/integration/s3"
)

func TestPublishingToABucketAndADirectoryFromTheCommandLine(t *testing.T) {
	ref, _ := s3.Start(t).Bucket(t)
	s := newShell(t)
	s.published()
	s.expect(0, "publish --to www --to "+ref, "www has timestamp 3 (", ref+" has timestamp 3 (")
	s.expect(0, "verify --from www", "verified: root 1, timestamp 3")
	s.expect(0, "verify --from "+ref, "verified: root 1, timestamp 3")

	policy := filepath.Join("repo", "policy.json")
	text, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	s.write(policy, strings.Replace(string(text), "{", `{"destinations": ["`+ref+`", "../www"],`, 1))
	s.expect(0, "refresh", "nothing is due", "has timestamp 3 (0 files")
	s.expect(0, "refresh --force", "signed timestamp 4", ref+" has timestamp 4 (1 files", "www has timestamp 4 (1 files")
	s.expect(0, "verify --from "+ref, "timestamp 4")
	s.expect(2, "publish --to https://example.com/deploy", "not https://")
	s.expect(1, "publish --to s3://key:secret@bucket/x", "credentials do not belong into it")
	s.expect(1, "publish --to s3://b?endpoint=http://store.example.com", "is not encrypted")
	s.expect(1, "verify --from nowhere", "404")
}

func TestASecondPublisherOfADestinationIsRefusedByName(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "publish --to www")
	if err := os.CopyFS("copy", os.DirFS("repo")); err != nil {
		t.Fatal(err)
	}
	s.expect(0, "refresh --force --to www")
	s.expect(3, "refresh --force --to www -C copy", "timestamp 4 is published there, and this directory has 3")
}

func TestAStoreThatIgnoresConditionsIsWarnedOf(t *testing.T) {
	ref, _ := s3.StartFake(t).Heedless(t).Bucket(t)
	s := newShell(t)
	s.published()
	s.expect(0, "publish --to "+ref)
	s.expect(0, "refresh --force --to "+ref, "has timestamp 4", "ignores conditional writes")
}
