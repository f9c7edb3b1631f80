package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// FileJournal keeps the record in one file, which the daemon alone writes.
type FileJournal struct {
	Path string
	// Damaged is told of a file that could not be understood. It is set aside and the journal begins anew: the coordinator still
	// knows the grant and answers with it.
	Damaged func(error)
}

var (
	fpBeforeJournal = durable.NewFailpoint("fleet.journal.before")
	fpAfterJournal  = durable.NewFailpoint("fleet.journal.after")
)

// Load implements Journal.
func (j FileJournal) Load() (Record, error) {
	var r Record
	data, err := os.ReadFile(j.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("cannot read the journal of slots: %w", err)
	}
	if err := json.Unmarshal(data, &r); err == nil {
		return r, nil
	}
	err = durable.Rename(j.Path, j.Path+".damaged")
	if j.Damaged != nil {
		j.Damaged(fmt.Errorf("the journal of slots %s was damaged and is set aside", j.Path))
	}
	return Record{}, err
}

// Save implements Journal.
func (j FileJournal) Save(r Record) error {
	if err := fpBeforeJournal.Hit(); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot write the journal of slots: %w", err)
	}
	if err := durable.WriteFile(j.Path, data, 0o600); err != nil {
		return err
	}
	return fpAfterJournal.Hit()
}
