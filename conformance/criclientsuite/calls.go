package criclientsuite

import (
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// calls are calls in the order of their arrival.
type calls []call

// such returns the calls for which a condition holds.
func (cs calls) such(holds func(*call) bool) calls {
	var found calls
	for i := range cs {
		if holds(&cs[i]) {
			found = append(found, cs[i])
		}
	}
	return found
}

// of returns the calls of the methods.
func (cs calls) of(methods ...string) calls {
	return cs.such(func(c *call) bool { return slices.Contains(methods, c.method) })
}

// named returns the calls about a container of that name.
func (cs calls) named(container string) calls {
	return cs.such(func(c *call) bool { return c.container == container })
}

// about returns the calls with that id of a sandbox or a container.
func (cs calls) about(id string) calls {
	return cs.such(func(c *call) bool { return c.sandboxID == id && c.containerID == "" || c.containerID == id })
}

// good returns the calls that have succeeded.
func (cs calls) good() calls {
	return cs.such(func(c *call) bool { return !c.ended.IsZero() && c.err == nil })
}

// over returns the calls that have ended.
func (cs calls) over() calls { return cs.such(func(c *call) bool { return !c.ended.IsZero() }) }

// first returns the first call, or nil if there is none.
func (cs calls) first() *call {
	if len(cs) == 0 {
		return nil
	}
	return &cs[0]
}

// last returns the last call, or nil if there is none.
func (cs calls) last() *call {
	if len(cs) == 0 {
		return nil
	}
	return &cs[len(cs)-1]
}

// String lists the calls for people, without those that only read.
func (cs calls) String() string {
	var words []string
	for i := range cs {
		c := &cs[i]
		if strings.HasPrefix(c.method, "List") || strings.HasSuffix(c.method, "Status") {
			continue
		}
		word := c.method
		if c.container != "" {
			word += " of " + c.container
		}
		if c.err != nil {
			word += " (failed)"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// sandboxes returns the requests of RunPodSandbox.
func (cs calls) sandboxes() []*runtimeapi.RunPodSandboxRequest {
	var list []*runtimeapi.RunPodSandboxRequest
	for i := range cs {
		if req, ok := cs[i].req.(*runtimeapi.RunPodSandboxRequest); ok {
			list = append(list, req)
		}
	}
	return list
}

// creates returns the requests of CreateContainer.
func (cs calls) creates() []*runtimeapi.CreateContainerRequest {
	var list []*runtimeapi.CreateContainerRequest
	for i := range cs {
		if req, ok := cs[i].req.(*runtimeapi.CreateContainerRequest); ok {
			list = append(list, req)
		}
	}
	return list
}

// want returns an error unless the values are equal.
func want[T comparable](what string, got, wanted T) error {
	if got == wanted {
		return nil
	}
	return fmt.Errorf("%s is %#v, want %#v", what, got, wanted)
}

// wantList returns an error unless the lists are equal.
func wantList[T comparable](what string, got, wanted []T) error {
	if slices.Equal(got, wanted) {
		return nil
	}
	return fmt.Errorf("%s is %v, want %v", what, got, wanted)
}

// wantPairs returns an error unless the map has the pairs.
func wantPairs(what string, got, wanted map[string]string) error {
	for k, v := range wanted {
		if have, ok := got[k]; !ok || have != v {
			return fmt.Errorf("%s are %q: %q is not %q", what, got, k, v)
		}
	}
	return nil
}
