package destination_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-deploy/slipway/integration/s3"
	"github.com/slipway-deploy/slipway/tuf/destination"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

var (
	_ repository.Destination = (*destination.Dir)(nil)
	_ repository.Destination = (*destination.S3)(nil)
)

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func create(d repository.Destination, name string, data []byte) error {
	return d.Create(context.Background(), name, bytes.NewReader(data), int64(len(data)), sum(data))
}

func content(t *testing.T, d repository.Destination, name string) string {
	t.Helper()
	body, size, err := d.Open(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil || int64(len(data)) != size {
		t.Fatalf("%d of %d bytes: %v", len(data), size, err)
	}
	return string(data)
}

// TestEveryKindOfDestinationKeepsTheSamePromises is the contract.
func TestEveryKindOfDestinationKeepsTheSamePromises(t *testing.T) {
	store, second := s3.Start(t), s3.StartFake(t)
	bucketOf := func(s *s3.Server) func(t *testing.T) repository.Destination {
		return func(t *testing.T) repository.Destination {
			ref, _ := s.Bucket(t)
			d, err := destination.OpenS3(ref)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	for kind, open := range map[string]func(*testing.T) repository.Destination{
		"directory": func(t *testing.T) repository.Destination {
			d, err := destination.OpenDir(filepath.Join(t.TempDir(), "www"))
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		"bucket of versitygw": bucketOf(store),
		"bucket of gofakes3":  bucketOf(second),
	} {
		t.Run(kind, func(t *testing.T) {
			for name, promise := range promises {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					promise(t, open(t))
				})
			}
		})
	}
}

var promises = map[string]func(*testing.T, repository.Destination){
	"what is not there is said so": func(t *testing.T, d repository.Destination) {
		ctx := context.Background()
		if _, _, err := d.Open(ctx, "metadata/timestamp.json"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open: %v", err)
		}
		if _, err := d.Digest(ctx, "metadata/1.root.json"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("digest: %v", err)
		}
		if files, err := d.List(ctx, "metadata"); err != nil || len(files) != 0 {
			t.Errorf("list: %v, %v", files, err)
		}
	},
	"a file is created once": func(t *testing.T, d repository.Destination) {
		if err := create(d, "metadata/1.root.json", []byte("one")); err != nil {
			t.Fatal(err)
		}
		for _, again := range []string{"one", "two"} {
			if err := create(d, "metadata/1.root.json", []byte(again)); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: %v", again, err)
			}
		}
		if got := content(t, d, "metadata/1.root.json"); got != "one" {
			t.Errorf("got %q", got)
		}
		if got, err := d.Digest(context.Background(), "metadata/1.root.json"); err != nil || got != sum([]byte("one")) {
			t.Errorf("digest %s, %v", got, err)
		}
	},
	"large files go up in parts": func(t *testing.T, d repository.Destination) {
		big := make([]byte, 21<<20+17)
		_, _ = rand.Read(big)
		name := "targets/releases/billing/1.0.0/" + sum(big) + ".linux-amd64.tar.zst"
		if err := create(d, name, big); err != nil {
			t.Fatal(err)
		}
		if err := create(d, name, big); !errors.Is(err, fs.ErrExist) {
			t.Errorf("again: %v", err)
		}
		if content(t, d, name) != string(big) {
			t.Error("other bytes came back")
		}
		if files, err := d.List(context.Background(), "targets"); err != nil || len(files) != 1 || files[name] != int64(len(big)) {
			t.Errorf("list: %v, %v", files, err)
		}
	},
	"bytes that are not what was announced are not stored": func(t *testing.T, d repository.Destination) {
		for name, data := range map[string][]byte{"small": []byte("small"), "large": make([]byte, 17<<20)} {
			for what, announced := range map[string]struct {
				size int64
				sum  string
			}{"another digest": {int64(len(data)), sum([]byte("x"))}, "too short": {int64(len(data)) + 1, sum(data)}} {
				err := d.Create(context.Background(), "targets/"+name, bytes.NewReader(data), announced.size, announced.sum)
				if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
					t.Errorf("%s, %s: %v", name, what, err)
				}
				if _, _, err := d.Open(context.Background(), "targets/"+name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s, %s: it is there: %v", name, what, err)
				}
			}
		}
	},
	"a swap compares": func(t *testing.T, d repository.Destination) {
		swap := func(old, next string, want bool) {
			t.Helper()
			var o []byte
			if old != "" {
				o = []byte(old)
			}
			if did, err := d.Swap(context.Background(), "metadata/timestamp.json", o, []byte(next)); err != nil || did != want {
				t.Errorf("%q → %q: %v, %v", old, next, did, err)
			}
		}
		swap("one", "two", false)
		swap("", "one", true)
		swap("", "two", false)
		swap("two", "three", false)
		swap("one", "two", true)
		if got := content(t, d, "metadata/timestamp.json"); got != "two" {
			t.Errorf("got %q", got)
		}
		if u, ok := d.(interface{ Unguarded() bool }); ok && u.Unguarded() {
			t.Error("the store compares, and is said not to")
		}
	},
	"of many swaps at once one wins": func(t *testing.T, d repository.Destination) {
		var wins []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, who := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			wg.Go(func() {
				did, err := d.Swap(context.Background(), "metadata/timestamp.json", nil, []byte(who))
				if err != nil {
					t.Error(err)
				}
				if did {
					mu.Lock()
					wins = append(wins, who)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(wins) != 1 || content(t, d, "metadata/timestamp.json") != wins[0] {
			t.Errorf("%v won", wins)
		}
	},
}

func TestAStoreWithoutConditionalWritesIsFoundOut(t *testing.T) {
	ref, _ := s3.StartFake(t).Heedless(t).Bucket(t)
	d, err := destination.OpenS3(ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		old, next string
		want      bool
	}{{"", "one", true}, {"one", "two", true}, {"one", "three", false}, {"two", "four", true}} {
		var old []byte
		if step.old != "" {
			old = []byte(step.old)
		}
		if did, err := d.Swap(context.Background(), "metadata/timestamp.json", old, []byte(step.next)); err != nil || did != step.want {
			t.Errorf("%q → %q: %v, %v", step.old, step.next, did, err)
		}
	}
	if got := content(t, d, "metadata/timestamp.json"); got != "four" || !d.Unguarded() {
		t.Errorf("got %q, unguarded %v", got, d.Unguarded())
	}
}

func TestABucketSaysHowItsFilesAreServed(t *testing.T) {
	store := s3.Start(t)
	ref, _ := store.Bucket(t)
	d, err := destination.OpenS3(ref)
	if err != nil {
		t.Fatal(err)
	}
	if d.String() != ref {
		t.Errorf("it is called %s", d)
	}
	files := map[string][2]string{
		"metadata/1.root.json":              {"application/json", "public, max-age=31536000, immutable"},
		"targets/releases/x/1/ab.x.tar.zst": {"application/zstd", "public, max-age=31536000, immutable"},
		"targets/releases/x/1/ab.sbom":      {"application/octet-stream", "public, max-age=31536000, immutable"},
		"metadata/timestamp.json":           {"application/json", "no-cache"},
	}
	for name := range files {
		if name == "metadata/timestamp.json" {
			_, err = d.Swap(context.Background(), name, nil, []byte("{}"))
		} else {
			err = create(d, name, []byte("{}"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range files {
		got := head(t, d, name)
		if got.Get("Content-Type") != want[0] || got.Get("Cache-Control") != want[1] || got.Get("Content-Encoding") != "" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestReferencesAreJudgedBeforeAnybodyIsAsked(t *testing.T) {
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"} {
		t.Setenv(name, "")
	}
	for ref, want := range map[string]string{
		"s3://":                             "it is not s3://BUCKET",
		"s3://key:hunter2@bucket":           "credentials do not belong into it",
		"s3://b?endpoint=http://store:9000": "is not encrypted; use https",
		"s3://b?endpoint=store:9000":        "is not https://HOST",
		"s3://b?endpoint=https://a/b":       "is not https://HOST",
		"s3://b?colour=blue":                "colour=blue is not known; known are",
		"s3://b?secret=hunter2":             "is not known",
	} {
		_, err := destination.OpenS3(ref)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
		if err != nil && strings.Contains(ref, "@") && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("it prints the secret: %v", err)
		}
	}
	for _, ref := range []string{"s3://b", "s3://b/a/b/", "s3://b?endpoint=https://store:9000&style=path", "s3://b?endpoint=http://store:9000&unsafe_http=true", "s3://b?region=eu-central-1"} {
		if _, err := destination.OpenS3(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestWhatAStoreRefusesIsExplained(t *testing.T) {
	store := s3.Start(t)
	open := func(ref string) *destination.S3 {
		d, err := destination.OpenS3(ref)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	ref, _ := store.Bucket(t)
	if _, err := open(strings.Replace(ref, "/deploy", "-other/deploy", 1)).List(context.Background(), "metadata"); err == nil || !strings.Contains(err.Error(), "there is no bucket") {
		t.Errorf("no bucket: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	if err := create(open(ref), "metadata/1.root.json", []byte("x")); err == nil || !strings.Contains(err.Error(), "s3:PutObject") {
		t.Errorf("a wrong key: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("HOME", t.TempDir())
	if err := create(open(ref), "metadata/1.root.json", []byte("x")); err == nil || !strings.Contains(err.Error(), "cannot find credentials: set AWS_ACCESS_KEY_ID") {
		t.Errorf("no key: %v", err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = "+s3.AccessKey+"\naws_secret_access_key = "+s3.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	if err := create(open(ref), "metadata/1.root.json", []byte("x")); err != nil {
		t.Errorf("a key in a file: %v", err)
	}
}

func head(t *testing.T, d *destination.S3, name string) http.Header {
	t.Helper()
	h, err := d.Head(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
