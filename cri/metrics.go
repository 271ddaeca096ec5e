package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Metrics are the time series that a runtime offers of Pods and containers. The
// kubelet publishes them at /metrics/cadvisor.
//
// Sandbox and Container are called for every ready sandbox and every running
// container, several at a time, whenever the metrics are scraped. What one
// returns an error for is left out. Either may be nil.
//
// The SDK puts the label values in the descriptor's order, leaves out (and logs
// once) a sample of an unknown name or with an unknown label, and the second of
// two with the same name and labels, for which a whole scrape would fail.
type Metrics struct {
	// Descriptors are all series, by unique names. They never change. Serve
	// refuses names and labels that Prometheus would.
	Descriptors []*runtimeapi.MetricDescriptor
	// Sandbox returns the samples of the Pod as a whole.
	Sandbox func(context.Context, *Sandbox) ([]Sample, error)
	// Container returns those of one container.
	Container func(context.Context, *Container) ([]Sample, error)
}

// Sample is one value of a time series.
type Sample struct {
	// Name is that of a descriptor.
	Name string
	// Labels are by the descriptor's keys; one that is not there is empty.
	// Samples may share the map, which is only read.
	Labels map[string]string
	Value  uint64
	// Gauge says that the value may fall; otherwise it counts.
	Gauge bool
	// At is when the value was taken, zero for now.
	At time.Time
}
