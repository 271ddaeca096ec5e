package hostlocal

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/cniname"
)

const usage = `Usage:
  host-local list [--data-dir DIR] [NETWORK]
  host-local release [--data-dir DIR] NETWORK ADDRESS|CONTAINER

list shows the reservations of a network, or of all, and changes nothing. release
gives one back, or all that a container has in the network, whatever state they
are in: the container itself is not asked.
`

// Command serves people who call the plugin with the arguments list or release. It
// takes the networks' locks as the plugin does. list only reads. What release logs
// goes to stderr.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c := command{out: stdout, boot: thisBoot(), log: slog.New(slog.NewTextHandler(stderr, nil))}
	flags := flag.NewFlagSet("host-local", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	flags.StringVar(&c.dataDir, "data-dir", defaultDataDir, "")
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	switch n := flags.NArg(); {
	case n > 0 && !cniname.Valid(flags.Arg(0)):
		return fmt.Errorf("%q is no name of a network", flags.Arg(0))
	case n > 1 && flags.Arg(1) == "":
		return errors.New("the address or container to release is empty")
	case verb == "list" && n <= 1:
		return c.list(ctx, flags.Args())
	case verb == "release" && n == 2:
		return c.release(ctx, flags.Arg(0), flags.Arg(1))
	case verb == "help", verb == "-h", verb == "--help":
		fmt.Fprint(stdout, usage)
		return nil
	}
	fmt.Fprint(stderr, usage)
	return errors.New("the command is not understood")
}

type command struct {
	out     io.Writer
	boot    boot
	log     *slog.Logger
	dataDir string
}

func (c command) list(ctx context.Context, networks []string) error {
	if len(networks) == 0 {
		entries, err := os.ReadDir(c.dataDir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if e.IsDir() && cniname.Valid(e.Name()) {
				networks = append(networks, e.Name())
			}
		}
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NETWORK\tADDRESS\tCONTAINER\tINTERFACE\tSINCE\tSTATE")
	for _, network := range networks {
		all, err := newStore(c.dataDir, network, c.boot, c.log).look(ctx)
		if err != nil {
			return fmt.Errorf("reading reservations of network %q: %w", network, err)
		}
		for _, r := range all {
			since := time.Unix(r.since.Unix()).UTC().Format(time.RFC3339)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", network, r.addr, dash(r.owner.ContainerID), dash(r.owner.IfName), since, r.state())
		}
	}
	return w.Flush()
}

func dash(s string) string { return cmp.Or(s, "-") }

func (r reservation) state() string {
	switch {
	case r.aside:
		return "put aside, damaged: " + r.damage
	case r.damage != "" && (r.empty || r.stale):
		return "free, damaged: " + r.damage // the next call quarantines it
	case r.damage != "":
		return "kept back, damaged: " + r.damage
	case r.stale:
		return "of an earlier boot"
	}
	return "reserved"
}

// everything reads all reservations in the index, ordered by address.
func (s *store) everything() (all []reservation, err error) {
	held := s.idx.all(func(holding) bool { return true })
	if s.idx.err != nil {
		return nil, errOutdated
	}
	for _, h := range held {
		aside := h.key == quarantinedKey()
		name := h.addr.String()
		if aside {
			name = quarantinePrefix + name
		}
		r, err := readReservation(s.dir, name, s.boot)
		if err != nil {
			r.damage = err.Error()
		}
		if keyOf(r.owner) != h.key && r.damage == "" {
			return nil, errOutdated
		}
		r.addr, r.aside = h.addr, aside
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b reservation) int { return a.addr.Compare(b.addr) })
	return all, nil
}

func (c command) release(ctx context.Context, network, what string) error {
	s := newStore(c.dataDir, network, c.boot, c.log)
	return withStore(ctx, s, false, func() error {
		all, err := s.everything()
		if err != nil {
			return err
		}
		a, _ := netip.ParseAddr(what)
		count := 0
		for _, r := range all {
			if r.addr != a && r.owner.ContainerID != what {
				continue
			}
			count++
			if err := s.discard(r); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "released %s of %s\n", r.addr, dash(r.owner.ContainerID))
		}
		if count == 0 {
			return cni.Errorf(cni.CodeConfig, "network %q has no reservation of address or container %q", network, what)
		}
		return nil
	})
}

// discard releases an address or removes a quarantined file.
func (s *store) discard(r reservation) error {
	h := r.holding()
	if r.aside {
		h.key = quarantinedKey()
		return s.removeQuarantined(h)
	}
	return s.remove(h, defaultReuseDelay)
}
