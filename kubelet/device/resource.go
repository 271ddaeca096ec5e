package device

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/deviceplugin/client"
)

// forgetAfter is how long the capacity of a resource without a plugin is still
// reported, as in the kubelet (endpointStopGracePeriod).
const forgetAfter = 5 * time.Minute

// Resource counts the devices of one resource.
type Resource struct {
	// Capacity counts the devices that the plugin lists, or has listed within the last
	// five minutes. Allocatable counts the healthy ones among them. InUse counts the
	// allocated ones, whether they are still listed or not.
	Capacity, Allocatable, InUse int
}

// resource is what the manager knows of one resource. The manager's lock protects it.
type resource struct {
	endpoint *client.Endpoint // nil if no instance serves it
	devices  []client.Device  // the last list, all unhealthy if there is no endpoint
	gone     time.Time        // since when there is no endpoint
}

// refusal is the reason why a plugin of the resource could not register.
type refusal struct {
	resource string
	err      error
}

// end removes the endpoint from the resource and returns it. Its devices remain, as
// unhealthy.
func (r *resource) end() *client.Endpoint {
	e := r.endpoint
	r.endpoint, r.gone = nil, time.Now()
	for i := range r.devices {
		r.devices[i].Healthy = false
	}
	return e
}

func (r *resource) count() (capacity, allocatable int) {
	if r.endpoint == nil && time.Since(r.gone) > forgetAfter {
		return 0, 0
	}
	for _, d := range r.devices {
		if d.Healthy {
			allocatable++
		}
	}
	return len(r.devices), allocatable
}

// listed records a list, or the end of a stream if devices is nil. It ignores an
// instance that has been replaced.
func (m *Manager) listed(e *client.Endpoint, devices []client.Device) {
	if devices == nil {
		m.lost(e)
		return
	}
	m.mu.Lock()
	r := m.resources[e.Resource()]
	current := r != nil && r.endpoint == e
	if current {
		r.devices = devices
	}
	m.mu.Unlock()
	if current {
		m.notify()
	}
}

// lost removes an instance from use, unless another has replaced it.
func (m *Manager) lost(e *client.Endpoint) {
	m.mu.Lock()
	r := m.resources[e.Resource()]
	current := r != nil && r.endpoint == e
	if current {
		r.end()
		m.close(e)
	}
	m.mu.Unlock()
	if current {
		m.log.Info("device plugin gone", "resource", e.Resource(), "socket", e.Socket())
		m.notify()
	}
}

// Resources returns the counts of all resources that have a plugin or devices
// in use.
func (m *Manager) Resources() map[string]Resource {
	out := map[string]Resource{}
	used := m.ledger.inUse()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.resources {
		capacity, allocatable := r.count()
		out[name] = Resource{Capacity: capacity, Allocatable: allocatable}
	}
	for name, ids := range used {
		one := out[name]
		one.InUse = len(ids)
		out[name] = one
	}
	return out
}

// endpoint returns the instance that serves the resource, or nil.
func (m *Manager) endpoint(name string) *client.Endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.resources[name]; r != nil {
		return r.endpoint
	}
	return nil
}

// absence describes a resource that nobody serves: whether its plugin was there before
// or was rejected, and what is served instead.
func (m *Manager) absence(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := fmt.Sprintf("none is registered at %s/kubelet.sock", m.dir)
	if r := m.resources[name]; r != nil {
		text += "; the one that was ended its ListAndWatch, or was killed, and has not registered again"
	}
	if m.refused.err != nil {
		text += fmt.Sprintf("; one was refused: %v", m.refused.err)
	}
	var others []string
	for _, other := range slices.Sorted(maps.Keys(m.resources)) {
		if m.resources[other].endpoint != nil {
			others = append(others, strconv.Quote(other))
		}
	}
	if len(others) > 0 {
		text += "; there are plugins for " + strings.Join(others, ", ")
	}
	return text
}

// oddities describes what is wrong with the first odd devices of the list.
func (m *Manager) oddities(name string) string {
	const most = 3
	m.mu.Lock()
	defer m.mu.Unlock()
	var odd []string
	if r := m.resources[name]; r != nil {
		for _, d := range r.devices {
			if d.Odd != "" {
				odd = append(odd, fmt.Sprintf("; of device %q the plugin says something odd: %s", d.ID, d.Odd))
			}
		}
	}
	if more := len(odd) - most; more > 0 {
		odd = append(odd[:most], fmt.Sprintf("; and so on of %d more", more))
	}
	return strings.Join(odd, "")
}

// healthy returns the ids of the healthy devices in the order of the list.
func (m *Manager) healthy(name string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	if r := m.resources[name]; r != nil {
		for _, d := range r.devices {
			if d.Healthy {
				ids = append(ids, d.ID)
			}
		}
	}
	return ids
}
