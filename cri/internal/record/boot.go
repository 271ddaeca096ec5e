package record

import (
	"fmt"
	"os"
	"path/filepath"
)

// Records are not synced: they have to outlive the server, whose sandboxes and
// containers live on, and not the machine, with which all of them end. A sync or
// two for each change would be most of what a change costs. After a loss of
// power, then, the youngest records may be missing or cut off, and the file boot
// says when to expect that.

func (d *Dir) bootFile() string { return filepath.Join(d.path, "boot") }

// clearHomes removes the directories of objects that are not on record.
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
