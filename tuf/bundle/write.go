package bundle

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// File is one file on its way into a bundle. Open is called once, when its turn has come.
type File struct {
	Name string
	Size int64
	Open func() (io.ReadCloser, error)
}

// Write makes a bundle of files in the order given, which must be that of the format. Files and Bytes of info are filled in.
// What was written is worth nothing after an error.
func Write(w io.Writer, info Info, files []File) error {
	info.Schema, info.Files, info.Bytes = Schema, len(files), 0
	for _, f := range files {
		info.Bytes += f.Size
	}
	data, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("cannot describe the bundle: %w", err)
	}
	data = append(data, '\n')
	if len(files) > maxFiles || len(data) > maxInfo {
		return fmt.Errorf("cannot put %d files into one bundle: at most %d are allowed; make one for each environment or app", len(files), maxFiles)
	}
	t := tar.NewWriter(w)
	if err := header(t, infoName, int64(len(data))); err != nil {
		return err
	}
	if _, err := t.Write(data); err != nil {
		return err
	}
	for _, f := range files {
		if err := add(t, f); err != nil {
			return err
		}
	}
	return t.Close()
}

func header(t *tar.Writer, name string, size int64) error {
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
}

func add(t *tar.Writer, f File) error {
	if err := checkName(f.Name); err != nil {
		return fmt.Errorf("cannot put %q into a bundle: %w", f.Name, err)
	}
	if err := header(t, f.Name, f.Size); err != nil {
		return err
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.Copy(t, in)
	if err != nil {
		return fmt.Errorf("cannot put %s into the bundle: %w", f.Name, err)
	}
	if n != f.Size {
		return fmt.Errorf("cannot put %s into the bundle: it has %d bytes now and had %d", f.Name, n, f.Size)
	}
	return nil
}
