package meminfo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	text := "MemTotal:       16 kB\nMemAvailable:    3 kB\nHugePages_Total:    7\nbad: x kB\n\nActive(anon): 2 kB"
	want := map[string]uint64{"MemTotal": 16 << 10, "MemAvailable": 3 << 10, "Active(anon)": 2 << 10}
	if diff := cmp.Diff(want, parse([]byte(text))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestThisMachine(t *testing.T) {
	sizes, err := Read()
	if err != nil || sizes["MemTotal"] == 0 || sizes["MemAvailable"] > sizes["MemTotal"] {
		t.Errorf("%v, %v", sizes, err)
	}
}
