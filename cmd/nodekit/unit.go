package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/systemd"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// unitMark is the first line of every unit file that install writes, and of no others.
const unitMark = "# Written by nodekit install, which replaces a file with this line and no other."

// unit is the service that runs a node.
type unit struct {
	Program              string   // absolute
	Args                 []string // of the program
	Root, Run, Manifests string   // absolute
}

// The node's processes and where systemd may reach them: nodekit itself is in the
// unit's cgroup, the keeper is in a scope, and containers are in the node's own cgroup.
// See docs/guides/install-a-node.md.
var unitTemplate = template.Must(template.New("unit").Parse(unitMark + `
[Unit]
Description=nodekit node at {{.Root}}
Documentation=https://github.com/nodekit-project/nodekit
After=network.target
RequiresMountsFor={{.Mounts}}
# A node that cannot start is tried for as long as it takes.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={{.Command}}
Restart=always
RestartSec=1
TimeoutStartSec=5min
# Stopping ends nodekit and nothing else: containers run on, and the next start
# takes them over. Delegation keeps every controller of cgroup v2 switched on.
KillMode=process
Delegate=yes
{{with .ConfigurationDirectory -}}
ConfigurationDirectory={{.}}
{{end -}}
{{with .RuntimeDirectory -}}
RuntimeDirectory={{.}}
RuntimeDirectoryMode=0711
RuntimeDirectoryPreserve=yes
{{end -}}
OOMScoreAdjust=-999
TasksMax=infinity
# The soft limit is the one that containers begin with.
LimitNOFILE=1024:1048576
LimitNPROC=infinity
# Where the credentials for registries are.
Environment=HOME=%h

[Install]
WantedBy=multi-user.target
`))

// text returns the unit file. A path or argument that a unit file cannot contain is
// fault.Invalid.
func (u *unit) text() ([]byte, error) {
	if strings.ContainsAny(u.Program, `"'\`) {
		return nil, fault.Invalid.Errorf("systemd cannot run a program with a quote or a backslash in its path: move %q", u.Program)
	}
	var errs []error
	words := func(list ...string) string {
		var quoted []string
		for _, s := range list {
			q, err := systemd.Quote(s)
			if err != nil {
				errs = append(errs, err)
			}
			quoted = append(quoted, q)
		}
		return strings.Join(quoted, " ")
	}
	mounts := []string{u.Root}
	if u.Manifests != "" {
		mounts = append(mounts, u.Manifests)
	}
	var out bytes.Buffer
	err := unitTemplate.Execute(&out, map[string]string{
		"Root":             strings.ReplaceAll(u.Root, "%", "%%"),
		"Mounts":           words(mounts...),
		"Command":          words(append([]string{":" + u.Program}, u.Args...)...), // the colon: no variables
		"RuntimeDirectory": u.runtimeDirectory(),
		// The default manifest directory is created at the start; another one must
		// exist.
		"ConfigurationDirectory": map[bool]string{true: strings.TrimPrefix(defaultManifests, "/etc/")}[u.Manifests == defaultManifests],
	})
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return out.Bytes(), err
}

// runtimeDirectory returns the run directory in systemd's notation, relative to /run.
// It is empty if systemd could not create the directory; the node creates it, too.
func (u *unit) runtimeDirectory() string {
	rest, below := strings.CutPrefix(u.Run, "/run/")
	if !below || !regexp.MustCompile(`^[A-Za-z0-9._/-]+$`).MatchString(rest) {
		return ""
	}
	return rest
}

// unitArguments returns the arguments of `nodekit node` that are equivalent to cmd's
// flags, with absolute paths. The node's directories are always among them, so that
// later defaults do not move it.
func unitArguments(cmd *cobra.Command) ([]string, error) {
	args := []string{"node"}
	known := newNodeCommand().Flags()
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		lives := f.Name == "root" || f.Name == "run" || f.Name == "manifests"
		if known.Lookup(f.Name) == nil || !f.Changed && !lives {
			return
		}
		values, err := flagValues(f)
		if err != nil && failed == nil {
			failed = err
		}
		for _, v := range values {
			args = append(args, "--"+f.Name+"="+v)
		}
	})
	return args, failed
}

// flagValues returns the flag's values, one element per occurrence.
func flagValues(f *pflag.Flag) ([]string, error) {
	values := []string{f.Value.String()}
	list, isList := f.Value.(pflag.SliceValue)
	if isList {
		values = list.GetSlice()
	}
	for i, v := range values {
		v, err := absoluteValue(f.Name, v)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", f.Name, err)
		}
		if f.Value.Type() == "stringSlice" { // split at commas, unlike stringArray
			if v, err = csvField(v); err != nil {
				return nil, err
			}
		}
		values[i] = v
	}
	return values, nil
}

// absoluteValue makes a flag's value independent of the working directory.
func absoluteValue(flag, value string) (string, error) {
	switch flag {
	case "root", "run", "manifests", "keeper", "cni-conf-dir", "cni-bin-dir", "cni-import-cache", "image-archive", "cdi-spec-dir", "blockio-config-file", "hosts-dir",
		"nri-socket", "nri-plugins", "nri-plugin-config":
		if value == "" {
			return "", nil
		}
		return filepath.Abs(value)
	case "oci-runtime":
		if strings.Contains(value, "/") {
			return filepath.Abs(value)
		}
	case "runtime-handler":
		name, program, _ := strings.Cut(value, "=")
		if strings.Contains(program, "/") {
			abs, err := filepath.Abs(program)
			return name + "=" + abs, err
		}
	case "plugin":
		p, err := node.ParsePlugin(value)
		if err != nil || p.Kind == "" {
			return p.Path, err
		}
		return string(p.Kind) + "=" + p.Path, nil
	}
	return value, nil
}

func csvField(s string) (string, error) {
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.Write([]string{s}); err != nil {
		return "", err
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n"), w.Error()
}

// unitName returns the name of a service's unit file. It takes the name with or
// without its suffix.
func unitName(s string) (string, error) {
	name := strings.TrimSuffix(s, ".service")
	if !regexp.MustCompile(`^[A-Za-z0-9_.-]{1,200}$`).MatchString(name) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-") {
		return "", fault.Invalid.Errorf("--name %q: want letters, digits, dots, dashes and underscores", s)
	}
	return name + ".service", nil
}
