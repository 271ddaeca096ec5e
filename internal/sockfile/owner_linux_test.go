package sockfile_test

import (
	"os"
	"testing"

	"github.com/nodekit-project/nodekit/internal/sockfile"
)

func TestOwner(t *testing.T) {
	path := socket(t)
	if pid := sockfile.Owner(path); pid != 0 {
		t.Errorf("process %d listens where nobody does", pid)
	}
	listen(t, path)
	if pid := sockfile.Owner(path); pid != os.Getpid() {
		t.Errorf("process %d listens, want this one, %d", pid, os.Getpid())
	}
}
