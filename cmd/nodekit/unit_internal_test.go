package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestUnitText compares with files that are written by hand.
func TestUnitText(t *testing.T) {
	for name, u := range map[string]unit{
		"default.service": {
			Program: "/usr/local/bin/nodekit",
			Args:    []string{"node", "--manifests=" + defaultManifests, "--root=" + defaultRoot, "--run=" + defaultRun},
			Root:    defaultRoot, Run: defaultRun, Manifests: defaultManifests,
		},
		"odd.service": {
			Program: `/opt/my $dir 100%/nodekit`,
			Args:    []string{"node", "--root=/srv/50% of \"it\"", `--plugin-args=--endpoint=$(CSI_ENDPOINT) \ ;`, "--without="},
			Root:    `/srv/50% of "it"`, Run: "/srv/run", Manifests: "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := u.text()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestUnitThatNoFileCanHold(t *testing.T) {
	for name, u := range map[string]unit{
		"program":  {Program: "/opt/a\nb/nodekit", Root: "/r", Run: "/run/r"},
		"quote":    {Program: `/opt/"a"/nodekit`, Root: "/r", Run: "/run/r"},
		"argument": {Program: "/nodekit", Args: []string{"--root=/a\x00"}, Root: "/r", Run: "/run/r"},
		"root":     {Program: "/nodekit", Root: "/a\nExecStartPre=/bin/false", Run: "/run/r"},
	} {
		if text, err := u.text(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want fault.Invalid:\n%s", name, err, text)
		}
	}
}

func TestRuntimeDirectory(t *testing.T) {
	for run, want := range map[string]string{
		"/run/nodekit": "nodekit", "/run/a/b-1": "a/b-1",
		"/run": "", "/run/": "", "/var/run/nodekit": "", "/run/with space": "", "/run/a:b": "",
	} {
		if got := (&unit{Run: run}).runtimeDirectory(); got != want {
			t.Errorf("of %q: %q, want %q", run, got, want)
		}
	}
}

func TestUnitArguments(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, tt := range []struct {
		name  string
		given []string
		want  []string
	}{
		{"nothing", nil, []string{"node", "--manifests=" + defaultManifests, "--root=" + defaultRoot, "--run=" + defaultRun}},
		{
			"relative paths",
			[]string{"--root", "r", "--run=x/../s", "--manifests", "m", "--keeper", "k", "--cni-conf-dir", "c", "--image-archive", "i.tar", "--image-archive", "/j.tar"},
			[]string{
				"node", "--cni-conf-dir=" + dir + "/c", "--image-archive=" + dir + "/i.tar", "--image-archive=/j.tar",
				"--keeper=" + dir + "/k", "--manifests=" + dir + "/m", "--root=" + dir + "/r", "--run=" + dir + "/s",
			},
		},
		{
			"lists",
			[]string{"--root=/r", "--run=/s", "--manifests=", `--cni-bin-dir=a,"b,c"`, "--without", "gpu,csi-hostpath"},
			[]string{
				"node", "--cni-bin-dir=" + dir + "/a", `--cni-bin-dir="` + dir + `/b,c"`, "--manifests=", "--root=/r", "--run=/s",
				"--without=gpu", "--without=csi-hostpath",
			},
		},
		{
			"plugins",
			[]string{"--root=/r", "--run=/s", "--manifests=/m", "--plugin=./p", "--plugin=csi=q", "--plugin-args=-a $(CSI_ENDPOINT)", "-v"},
			[]string{
				"node", "--manifests=/m", "--plugin=" + dir + "/p", "--plugin=csi=" + dir + "/q", "--plugin-args=-a $(CSI_ENDPOINT)",
				"--root=/r", "--run=/s", "--verbose=true",
			},
		},
		{
			"handlers",
			[]string{"--root=/r", "--run=/s", "--manifests=/m", "--runtime-handler=slow=./k", "--runtime-handler=fast=crun", "--cdi-spec-dir=c"},
			[]string{"node", "--cdi-spec-dir=" + dir + "/c", "--manifests=/m", "--root=/r", "--run=/s", "--runtime-handler=slow=" + dir + "/k", "--runtime-handler=fast=crun"},
		},
		{
			"classes",
			[]string{"--root=/r", "--run=/s", "--manifests=/m", "--blockio-config-file=b.yaml", "--rdt-class=gold", "--rdt-class=silver", "--selinux=false"},
			[]string{"node", "--blockio-config-file=" + dir + "/b.yaml", "--manifests=/m", "--rdt-class=gold", "--rdt-class=silver", "--root=/r", "--run=/s", "--selinux=false"},
		},
		{
			"networks",
			[]string{"--root=/r", "--run=/s", "--manifests=/m", "--cni-conf-dir=/c", "--cni-import-cache=i", "--cni-timeout=2m,calico=3m"},
			[]string{"node", "--cni-conf-dir=/c", "--cni-import-cache=" + dir + "/i", "--cni-timeout=2m", "--cni-timeout=calico=3m", "--manifests=/m", "--root=/r", "--run=/s"},
		},
		{
			"programs by name",
			[]string{"--root=/r", "--run=/s", "--manifests=/m", "--oci-runtime=crun", "--gpus=4", "--name=other", "--unit-dir=u", "--now"},
			[]string{"node", "--gpus=4", "--manifests=/m", "--oci-runtime=crun", "--root=/r", "--run=/s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := newInstallCommand()
			var got []string
			cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
				got, err = unitArguments(cmd)
				return err
			}
			cmd.SetArgs(tt.given)
			if err := cmd.Execute(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			again := newNodeCommand()
			again.RunE = func(*cobra.Command, []string) error { return nil }
			again.SetArgs(got[1:])
			if err := again.Execute(); err != nil {
				t.Errorf("the node refuses them: %v", err)
			}
		})
	}
}

func TestUnitName(t *testing.T) {
	for in, want := range map[string]string{"nodekit": "nodekit.service", "a.service": "a.service", "node-2.x_y": "node-2.x_y.service"} {
		if got, err := unitName(in); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".service", "a/b", "../a", "a b", "-a", "a%n", "a@b"} {
		if got, err := unitName(in); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %q, %v; want fault.Invalid", in, got, err)
		}
	}
}
