package class_test

import (
	"os"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/class"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// resctrl makes a directory like the file system, with groups.
func resctrl(t *testing.T, groups ...string) func() (string, error) {
	t.Helper()
	at := t.TempDir()
	for _, dir := range append(groups, "info", "mon_groups", "mon_data") {
		if err := os.Mkdir(at+"/"+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range groups {
		if err := os.WriteFile(at+"/"+g+"/tasks", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func() (string, error) { return at, nil }
}

func offer(t *testing.T, at func() (string, error), names ...string) *class.RDT {
	t.Helper()
	r, err := class.NewRDT(names, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRDT: a container gets the class that it may have and that is there, and who
// asks for another learns what to do.
func TestRDT(t *testing.T) {
	at := resctrl(t, "gold", "silver", "host")
	r := offer(t, at, "gold", "silver", "bronze")
	for _, name := range []string{"gold", "silver"} {
		if err := r.Check(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir, _ := at()
	wantError(t, r.Check("bronze"), fault.FailedPrecondition, `"bronze"`, dir, `"gold", "host", "silver":`)
	for _, name := range []string{"host", "golden", "info", "../x"} {
		wantError(t, r.Check(name), fault.Invalid, `"`+name+`"`, `"bronze", "gold", "silver":`, "--rdt-class")
	}
	wantError(t, offer(t, at).Check("gold"), fault.FailedPrecondition, `"gold"`, "--rdt-class")
}

// TestRDTOfThisMachine: the mount table is asked where nobody else is.
func TestRDTOfThisMachine(t *testing.T) {
	err := offer(t, nil, "nodekit-no-such-group").Check("nodekit-no-such-group")
	wantError(t, err, fault.FailedPrecondition, `"nodekit-no-such-group"`, "resctrl")
}

// TestRDTNames: what can be no group is refused before anything asks for it.
func TestRDTNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a\nb", "info", "mon_groups", "mon_data"} {
		_, err := class.NewRDT([]string{"gold", name}, nil)
		wantError(t, err, fault.Invalid, "no group")
	}
}
