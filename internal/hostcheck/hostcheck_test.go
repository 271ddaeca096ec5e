package hostcheck_test

import (
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/internal/hostcheck"
)

func find(t *testing.T, name string) hostcheck.Result {
	t.Helper()
	all := hostcheck.Run()
	i := slices.IndexFunc(all, func(r hostcheck.Result) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("no check %q", name)
	}
	return all[i]
}

func TestMissingRuntimeNamesTheCommand(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r := find(t, "OCI runtime")
	if r.OK || r.Fix != "apt-get install runc" {
		t.Fatalf("with an empty PATH: %+v", r)
	}
	if !slices.Contains(hostcheck.Missing(hostcheck.Run()), r) {
		t.Fatal("a missing OCI runtime is not among what is needed")
	}
}

func TestEveryFailureSaysWhatToDo(t *testing.T) {
	for _, r := range hostcheck.Run() {
		if r.Found == "" || !r.OK && r.Fix == "" {
			t.Errorf("%+v", r)
		}
	}
}
