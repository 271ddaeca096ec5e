// Package statedir returns the directory in which a program keeps what must survive
// its restart.
package statedir

import (
	"cmp"
	"path/filepath"
	"strings"
)

// Of returns STATE_DIRECTORY, which systemd and nodekit set for the programs that
// they start, or /var/lib/NAME. systemd joins the directories of a unit that has
// several with colons (systemd.exec(5), StateDirectory=); Of returns the first.
func Of(name string, getenv func(string) string) string {
	first, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":")
	return cmp.Or(first, filepath.Join("/var/lib", name))
}
