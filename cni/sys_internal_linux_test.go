package cni

import (
	"os"
	"path/filepath"
	"testing"
)

func TestListed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dev")
	const list = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
eth0.100:   1290      13    0    0    0     0          0         0     1132      12    0    0    0     0       0          0
`
	if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"lo": true, "eth0.100": true, "eth0": false, "face": false, "": false, "o": false} {
		if found, err := listed(file, name); err != nil || found != want {
			t.Errorf("%q: %v, %v", name, found, err)
		}
	}
	if _, err := listed(file+".absent", "lo"); err == nil {
		t.Error("a list that is not there has nothing in it")
	}
}
