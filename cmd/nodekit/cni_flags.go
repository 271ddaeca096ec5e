package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// timeoutFlags set the timeouts of CNI plugins.
type timeoutFlags struct{ values []string }

func (f *timeoutFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.values, "cni-timeout", nil, "the `time` that a call of a CNI plugin may take, or type=time for the plugins of one type; "+
		"nodekit's own plugins get a minute at most (default 1m)")
}

// parse returns the timeout of plugins without one of their own, zero if none was
// given, and the timeouts by type.
func (f *timeoutFlags) parse() (each time.Duration, byType map[string]time.Duration, err error) {
	for _, value := range f.values {
		kind, text, named := strings.Cut(value, "=")
		if !named {
			kind, text = "", value
		}
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || named && (kind == "" || strings.Contains(kind, "/")) {
			return 0, nil, fault.Invalid.Errorf("--cni-timeout %q: want a positive duration, such as 90s or 2m, or type=time with the type of a CNI plugin", value)
		}
		if _, twice := byType[kind]; twice || !named && each != 0 {
			return 0, nil, fault.Invalid.Errorf("--cni-timeout %q: there is another value for the same", value)
		}
		switch {
		case !named:
			each = d
		case byType == nil:
			byType = map[string]time.Duration{kind: d}
		default:
			byType[kind] = d
		}
	}
	return each, byType, nil
}

func addCNIImportCache(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "cni-import-cache", "", fmt.Sprintf("at the start, detach the Pods of a runtime that was replaced: "+
		"the `directory` of its cached CNI results, usually %s", cniruntime.LibcniResults))
}

// completeImportCache makes the directory an absolute path. Without a configuration
// directory there is no network that another runtime may have used.
func completeImportCache(dir *string, confDir string) error {
	if *dir != "" && confDir == "" {
		return fault.Invalid.Errorf("--cni-import-cache %q needs the network that the other runtime used: name its configuration with --cni-conf-dir", *dir)
	}
	return absolute(dir)
}
