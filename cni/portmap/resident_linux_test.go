package portmap_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestResident: the sockets that a plugin keeps serve many calls at once, each in the
// network namespace that it is called in, and calls go on when they were given up.
func TestResident(t *testing.T) {
	testenv.Require(t, testenv.Root)
	plugin, stop := portmap.Resident()
	hosts, far := []string{netnstest.New(t), netnstest.New(t)}, netnstest.New(t)
	all := func(command string) {
		t.Helper()
		var calls errgroup.Group
		for i := range 40 {
			p := bare(t, far, fmt.Sprintf("c%d", i), fmt.Sprintf("10.55.0.%d", i+2))
			stdin := p.document(map[string]any{"snat": false}, portmap.Mapping{HostPort: 8000 + i/2, ContainerPort: 80})
			calls.Go(func() error {
				return netns.Do(hosts[i%2], func() error { // both hosts have the same ports
					_, err := cni.Invoke(context.Background(), plugin, p.env(command), stdin)
					return err
				})
			})
		}
		if err := calls.Wait(); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	// owners is how many attachments have mappings on each host.
	owners := func() string {
		t.Helper()
		var counts []string
		for _, ns := range hosts {
			all := regexp.MustCompile(`comment "[^" ]+"`).FindAllString(netnstest.Run(t, ns, "nft", "list", "table", "inet", testTable), -1)
			slices.Sort(all)
			counts = append(counts, strconv.Itoa(len(slices.Compact(all))))
		}
		return strings.Join(counts, " and ")
	}
	for range 2 {
		all("ADD")
		if n := owners(); n != "20 and 20" {
			t.Errorf("%s containers have mappings", n)
		}
		all("DEL")
		if n := owners(); n != "0 and 0" {
			t.Errorf("%s containers have mappings after DEL", n)
		}
		if err := stop(); err != nil { // and nothing is kept the second time
			t.Error(err)
		}
	}
}
