package cnisuite_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/bootid"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// survivors are plugins that do not expect a reboot.
func survivors() map[string]func(*cni.Plugin) {
	return map[string]func(*cni.Plugin){
		// It finds its note and relies on what it made on the host.
		"del-needs-its-host": func(p *cni.Plugin) {
			before(func(_ context.Context, r *cni.Request) error {
				return errors.Join(addBridge("needed0"), os.WriteFile(note(r), nil, 0o600))
			})(p)
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if _, err := os.Stat(note(r)); errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if _, err := netlink.LinkByName("needed0"); err != nil {
					return err
				}
				return errors.Join(del(ctx, r, nil), os.Remove(note(r)))
			}
		},
		// It notes that it made what all attachments share, and never makes it again.
		"makes-it-once": before(func(_ context.Context, r *cni.Request) error {
			if exclusive(filepath.Join(r.Config.(*config).State, "made")) == nil {
				return addBridge("once0")
			}
			_, err := netlink.LinkByName("once0")
			return err
		}),
		// It frees what it noted in this boot only.
		"keeps-the-old": func(p *cni.Plugin) {
			before(func(_ context.Context, r *cni.Request) error {
				boot, err := bootid.Read()
				return errors.Join(err, os.WriteFile(note(r), []byte(boot), 0o600))
			})(p)
			p.Del = func(ctx context.Context, r *cni.Request) error {
				boot, err := bootid.Read()
				if text, _ := os.ReadFile(note(r)); err != nil || string(text) != boot {
					return err
				}
				return errors.Join(del(ctx, r, nil), os.Remove(note(r)))
			}
		},
	}
}

func addBridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// booted is a pool that looks at the boot: what is kept of another one stays for
// ever, or goes at once.
func (p pool) booted(x *exchange, volatile bool) (string, int) {
	boot, err := bootid.Read()
	if err != nil || x.config()["state"] == nil {
		return p.answer(x)
	}
	marker := x.state("boot")
	first := exclusive(marker) == nil
	if first {
		_ = os.WriteFile(marker, []byte(boot), 0o600)
	}
	if text, _ := os.ReadFile(marker); string(text) == boot {
		return p.answer(x)
	}
	switch {
	case volatile:
		files, _ := filepath.Glob(x.state("*,*"))
		for _, path := range files {
			_ = os.Remove(path)
		}
		_ = os.WriteFile(marker, []byte(boot), 0o600)
	case x.command() == "DEL" || x.command() == "GC":
		return "", 0
	}
	return p.answer(x)
}

func bootedPools() map[string]func() int {
	p := pool{first: 2}
	return map[string]func() int{
		"ipam-boots":    raw(func(x *exchange) (string, int) { return p.booted(x, false) }),
		"ipam-volatile": raw(func(x *exchange) (string, int) { return p.booted(x, true) }),
	}
}

func rebootFaults() []fault {
	return []fault{
		{"del-needs-its-host", "CNI-REBOOT-001"},
		{"makes-it-once", "CNI-REBOOT-002"},
		{"keeps-the-old", "CNI-REBOOT-003"},
		{"ipam-boots", "CNI-REBOOT-003"},
		{"ipam-boots", "CNI-REBOOT-004"},
		{"leaves-a-file", "CNI-REBOOT-004"},
	}
}

// TestRebootLegal has a plugin that forgets everything in a reboot by itself.
func TestRebootLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	tgt := target(t, "ipam-volatile")
	declareIPAM(t, &tgt, "ipam-volatile")
	legal(t, "CNI-REBOOT-", tgt)
}
