package node

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/sockfile"
)

func TestPluginsThatHaveNoPlaceAreRefused(t *testing.T) {
	some := func(kinds ...Kind) []*author {
		var list []*author
		for _, k := range kinds {
			list = append(list, &author{Plugin: Plugin{Path: "/x/" + string(k)}, sign: sign{kind: k}})
		}
		return list
	}
	for want, c := range map[string]struct {
		cfg     Config
		authors []*author
	}{
		"":                      {authors: some(CSI, CSI, DevicePlugin, DevicePlugin, CNI)},
		"/x/cni\" would never":  {authors: some(CNI, CRI)},
		"does not read":         {Config{CNIConfDir: "/c"}, some(CRI)},
		"both cni":              {authors: some(CNI, CNI)},
		"both cri":              {authors: some(CRI, CRI)},
		"never be called":       {Config{RuntimeEndpoint: "unix:///r"}, some(CNI)},
		"leave one out":         {Config{RuntimeEndpoint: "unix:///r"}, some(CRI)},
		"has no place beside a": {Config{CNIConfDir: "/c"}, some(CNI)},
	} {
		err := placed(&c.cfg, c.authors)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if err := differ([]Plugin{{Path: "/a/driver"}, {Path: "/b/driver"}}); err == nil {
		t.Error("two plugins of one name were taken")
	}
}

// TestUnseen: who serves somewhere else is told where it was looked for, and how to
// tell the plugin.
func TestUnseen(t *testing.T) {
	got := (&places{csi: "/r/plugins/x/csi.sock", cri: "/r/cri.sock"}).unseen()
	for _, want := range []string{"CSI_ENDPOINT (/r/plugins/x/csi.sock)", "CONTAINER_RUNTIME_ENDPOINT (/r/cri.sock)", "--plugin-args"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

// TestSocketOfAnotherPluginIsNoSign holds who a new socket belongs to, by the
// process that listens and its parents.
func TestSocketOfAnotherPluginIsNoSign(t *testing.T) {
	dir, err := os.MkdirTemp("", "nk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := sockfile.Owner(socket); got != os.Getpid() {
		t.Errorf("process %d listens, and it is said to be %d", os.Getpid(), got)
	}
	if got := parentOf(os.Getpid()); got != os.Getppid() {
		t.Errorf("the parent is %d, and said to be %d", os.Getppid(), got)
	}
	for name, c := range map[string]struct {
		others []int
		want   int
	}{
		"nobody else":        {nil, 1},
		"an unrelated one":   {[]int{1 << 30}, 1},
		"another plugin":     {[]int{os.Getpid()}, 0},
		"a child of another": {[]int{os.Getppid()}, 0},
	} {
		at := places{others: c.others}
		if got := at.fresh(dir); len(got) != c.want {
			t.Errorf("%s: %v are taken for the plugin's", name, got)
		}
	}
}
