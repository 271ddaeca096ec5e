package record

import (
	"fmt"
	"os"
	"path/filepath"
)

// Records are not synced: they must outlive the server, whose sandboxes and containers
// keep running, but not the machine, with which all of them end. One or two syncs per
// change would be most of its cost. After a power loss, therefore, the latest records may
// be missing or truncated, and the file boot tells when to expect that.

func (d *Dir) bootFile() string { return filepath.Join(d.path, "boot") }

// clearHomes removes the directories of objects without a record.
func (d *Dir) clearHomes(all *Content) error {
	homes, err := os.ReadDir(d.Home(""))
	if err != nil {
		return fmt.Errorf("reading the records: %w", err)
	}
	for _, h := range homes {
		if _, known := all.phases[h.Name()]; known {
			continue
		}
		home := d.Home(h.Name())
		if err := d.bin.throw(home); err != nil {
			return fmt.Errorf("removing the directory of an object that is not on record: %w", err)
		}
		all.Lost = append(all.Lost, home)
	}
	return nil
}
