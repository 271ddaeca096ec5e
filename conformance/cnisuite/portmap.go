package cnisuite

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodekit-project/nodekit/conformance"
)

// portMapping is an entry of the capability portMappings (CONVENTIONS.md).
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// mapping is the sentence behind the rules on port mappings.
const mapping = "Pass mapping from ports on the host to ports in the container network namespace."

// portmapRules are about chained plugins with the capability portMappings.
func portmapRules() []conformance.Rule[Target] {
	const should, advisory = conformance.Should, conformance.Advisory
	of := func(id string, level conformance.Level, title string, check func(context.Context, *wires) error) conformance.Rule[Target] {
		return overWires(rule(id, level, title, "CONVENTIONS.md, Well-known Capabilities", mapping), check)
	}
	undone := of("CNI-PORTMAP-005", should, "DEL without runtimeConfig takes the mappings away", checkUnmapped)
	undone.Spec.Section, undone.Spec.Sentence = "DEL", effort
	return []conformance.Rule[Target]{
		of("CNI-PORTMAP-001", should, "a mapped port is reached from another machine (de facto)", reached("outside")),
		of("CNI-PORTMAP-002", should, "a mapped port is reached from the host (de facto)", reached("host")),
		of("CNI-PORTMAP-003", should, "a mapped port is reached from another container (de facto)", reached("neighbour")),
		of("CNI-PORTMAP-004", should, "a mapped port is reached from its own container (de facto)", reached("itself")),
		undone,
		of("CNI-PORTMAP-006", advisory, "a host port that leads to a container is not mapped to another one", checkPortTwice),
		of("CNI-PORTMAP-007", should, "connections to the same port of another machine are left alone (de facto)", checkOtherMachine),
		of("CNI-PORTMAP-008", should, "more than 15 ports can be mapped (de facto)", checkManyPorts),
		of("CNI-PORTMAP-009", should, "a mapping with hostIP is one of that address alone (de facto)", checkHostIP),
		of("CNI-PORTMAP-010", should, "a mapped port is reached by IPv6 (de facto)", checkMapped6),
	}
}

// overWires gives a rule on port mappings its check.
func overWires(r conformance.Rule[Target], check func(context.Context, *wires) error) conformance.Rule[Target] {
	return checked(r, func(ctx context.Context, l *lab) (err error) {
		args, err := l.asked()
		if err != nil {
			return err
		}
		if l.target.Kind != Chained || args["portMappings"] == nil {
			return conformance.NotApplicable("the profile declares no portMappings of a chained plugin")
		}
		if !l.speaks("0.3.0") {
			return conformance.NotApplicable("the plugin speaks %s at most, whose results are others", l.version)
		}
		w, err := l.wire()
		defer func() { err = errors.Join(err, w.close()) }()
		if err != nil {
			return err
		}
		return check(ctx, w)
	})
}

// The ports of these rules.
const (
	mappedPort, innerPort = 18080, 8080
)

func web() portMapping {
	return portMapping{HostPort: mappedPort, ContainerPort: innerPort, Protocol: "tcp"}
}

// up creates a container whose server answers with its id, and runs its ADD.
func (w *wires) up(ctx context.Context, mappings ...portMapping) (*container, error) {
	c, err := w.container(mappings...)
	if err != nil {
		return nil, err
	}
	if err := w.serve(c.ns, c.id, innerPort); err != nil {
		return nil, err
	}
	_, err = w.l.add(ctx, c)
	return c, err
}

// reach expects the container's answer.
func (w *wires) reach(c *container, from, ns, host string, port int) error {
	word, err := w.ask(ns, host, port)
	if err == nil && word != c.id {
		err = fmt.Errorf("%q answered", word)
	}
	if err != nil {
		return fmt.Errorf("port %d of %s does not lead to %s from %s: %w", port, host, c.id, from, err)
	}
	return nil
}

func reached(from string) func(context.Context, *wires) error {
	return func(ctx context.Context, w *wires) error {
		c, err := w.up(ctx, web())
		if err != nil {
			return err
		}
		ns := map[string]string{"outside": w.outside, "host": w.l.host, "itself": c.ns}[from]
		if from == "neighbour" {
			other, err := w.container()
			if err != nil {
				return err
			}
			ns = other.ns
		}
		return w.reach(c, from, ns, hostOut, mappedPort)
	}
}

func checkUnmapped(ctx context.Context, w *wires) error {
	c, err := w.up(ctx, web())
	if err != nil {
		return err
	}
	// A mapping that did not exist cannot be removed.
	if err := w.reach(c, "outside", w.outside, hostOut, mappedPort); err != nil {
		return err
	}
	del := with{what: "DEL without runtimeConfig", keys: map[string]any{"runtimeConfig": nil}}
	if err := w.l.delWith(ctx, c, del); err != nil {
		return err
	}
	if word, err := w.ask(w.outside, hostOut, mappedPort); err == nil {
		return fmt.Errorf("after DEL without runtimeConfig the port still leads to %s", word)
	}
	return nil
}

func checkPortTwice(ctx context.Context, w *wires) error {
	first, err := w.up(ctx, web())
	if err != nil {
		return err
	}
	second, err := w.container(web())
	if err != nil {
		return err
	}
	out, err := w.l.call(ctx, "ADD", second, with{what: "ADD with a host port that leads to another container"})
	if err != nil {
		return err
	}
	return errors.Join(out.failed(), w.reach(first, "outside", w.outside, hostOut, mappedPort))
}

func checkOtherMachine(ctx context.Context, w *wires) error {
	c, err := w.up(ctx, web())
	if err != nil {
		return err
	}
	// A container without mappings leaves everything alone.
	if err := w.reach(c, "outside", w.outside, hostOut, mappedPort); err != nil {
		return err
	}
	if err := w.serve(w.outside, "another machine", mappedPort); err != nil {
		return err
	}
	for _, from := range []struct{ name, ns string }{{"the host", w.l.host}, {"the container", c.ns}} {
		// The other machine need not have a route back to the container, but nobody
		// else may answer.
		if word, err := w.ask(from.ns, outsideAddress, mappedPort); err == nil && word != "another machine" {
			return fmt.Errorf("a connection from %s to another machine's port %d reached %q", from.name, mappedPort, word)
		}
	}
	return nil
}

func checkManyPorts(ctx context.Context, w *wires) error {
	const many = 40
	var mappings []portMapping
	for i := range many {
		mappings = append(mappings, portMapping{HostPort: mappedPort + i, ContainerPort: innerPort, Protocol: "tcp"})
	}
	c, err := w.up(ctx, mappings...)
	if err != nil {
		return err
	}
	for i := range many {
		if err := w.reach(c, "outside", w.outside, hostOut, mappedPort+i); err != nil {
			return err
		}
	}
	return nil
}

// checkHostIP uses the host's address on the bridge as the other address.
func checkHostIP(ctx context.Context, w *wires) error {
	mapping := web()
	mapping.HostIP = hostOut
	c, err := w.up(ctx, mapping)
	if err != nil {
		return err
	}
	if err := w.reach(c, "outside", w.outside, hostOut, mappedPort); err != nil {
		return err
	}
	if word, err := w.ask(w.outside, hostIn, mappedPort); err == nil {
		return fmt.Errorf("a mapping of %s captured port %d of %s: %q answered", hostOut, mappedPort, hostIn, word)
	}
	return nil
}

func checkMapped6(ctx context.Context, w *wires) error {
	if !w.v6 {
		return conformance.NotApplicable("the host has no IPv6")
	}
	c, err := w.up(ctx, web())
	if err != nil {
		return err
	}
	return w.reach(c, "outside", w.outside, hostOut6, mappedPort)
}
