package keys_test

import (
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func canonical(t *testing.T, m *metadata.Metadata[metadata.RootType]) []byte {
	t.Helper()
	data, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
