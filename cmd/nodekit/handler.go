package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// handlerFlags are settings of the reference runtime besides its OCI runtime.
type handlerFlags struct{ handlers, cdiDirs []string }

func (f *handlerFlags) addTo(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVar(&f.handlers, "runtime-handler", nil, "`name=program`: run Pods whose RuntimeClass has the handler name with this OCI runtime: crun, runc or a path")
	fs.StringArrayVar(&f.cdiDirs, "cdi-spec-dir", nil, "`directory` of CDI specs, may be repeated (default /etc/cdi and /var/run/cdi)")
}

// parse returns the handlers by name, and absolute directories. A directory need not
// exist yet.
func (f *handlerFlags) parse() (handlers map[string]string, dirs []string, err error) {
	for _, text := range f.handlers {
		name, program, ok := strings.Cut(text, "=")
		if _, twice := handlers[name]; !ok || name == "" || program == "" || twice {
			return nil, nil, fault.Invalid.Errorf("--runtime-handler %q: want name=program, with a name that occurs only once", text)
		}
		if handlers == nil {
			handlers = map[string]string{}
		}
		handlers[name] = program
	}
	for _, d := range f.cdiDirs {
		abs, err := filepath.Abs(d)
		if err != nil {
			return nil, nil, err
		}
		if fi, err := os.Stat(abs); d == "" || err == nil && !fi.IsDir() {
			return nil, nil, fault.Invalid.Errorf("--cdi-spec-dir %q: it is not a directory: name the directory of the CDI specs", d)
		}
		dirs = append(dirs, abs)
	}
	return handlers, dirs, nil
}
