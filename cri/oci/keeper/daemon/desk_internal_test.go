package daemon

import (
	"encoding/json"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
)

// A ledger of a keeper of another version is used as far as it goes, and one that
// cannot be read is replaced.
func TestLedgerOfAnotherVersion(t *testing.T) {
	for name, c := range map[string]struct {
		data     string
		slots    int
		kept     bool
		wantRoom int
	}{
		"of the first version":         {"", 8, true, 8},
		"with less room":               {`{"version":1}`, 2, true, 2},
		"with more room":               {`{"version":1}`, 2 * maxDesks, true, 2 * maxDesks},
		"of a version to come":         {`{"version":2,"slot":128}`, 8, false, maxDesks},
		"without room":                 {`{"version":1}`, 0, false, maxDesks},
		"of which the data is garbage": {`7`, 8, false, maxDesks},
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := unix.MemfdCreate("ledger", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.Ftruncate(fd, int64(c.slots*slotSize)); err != nil {
				t.Fatal(err)
			}
			var transit [2]int
			if err := unix.Pipe2(transit[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				t.Fatal(err)
			}
			defer closeBoth(transit)
			s := newTestServer(
				t,
				anchor.Entry{ID: ledgerID, Data: json.RawMessage(c.data), Files: []int{fd}},
				anchor.Entry{ID: deskID + "0", Data: json.RawMessage(`{"index":0}`), Files: transit[:]},
			)
			d := s.streams.desks
			if d.room != c.wantRoom || d.made != 1 {
				t.Errorf("there is room for %d desks and %d are made, want %d and 1", d.room, d.made, c.wantRoom)
			}
			before := fmt.Sprint(d.free[0].slot)
			if _, err := unix.Pwrite(fd, []byte{1}, 16); c.slots > 0 && err != nil {
				t.Fatal(err)
			}
			if kept := fmt.Sprint(d.free[0].slot) != before; kept != c.kept {
				t.Errorf("the ledger that there was is used: %v, want %v", kept, c.kept)
			}
			for range 3 {
				if _, err := d.take(); err != nil && d.room > 2 {
					t.Error(err)
				}
			}
		})
	}
}
