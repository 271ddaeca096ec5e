package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Metrics are the time series that a runtime provides for Pods and containers. The
// kubelet publishes them at /metrics/cadvisor.
//
// Sandbox and Container are called concurrently for every ready sandbox and every
// running container, whenever the metrics are scraped. An object for which they return
// an error is left out. Either may be nil.
//
// The SDK orders the label values as in the descriptor. It drops, and logs once,
// samples with an unknown name or label. It also drops the second of two samples with
// the same name and labels, which would make a whole scrape fail.
type Metrics struct {
	// Descriptors are all series, with unique names. They must not change. Serve
	// refuses names and labels that Prometheus would refuse.
	Descriptors []*runtimeapi.MetricDescriptor
	// Sandbox returns the samples of the Pod as a whole.
	Sandbox func(context.Context, *Sandbox) ([]Sample, error)
	// Container returns the samples of one container.
	Container func(context.Context, *Container) ([]Sample, error)
}

// Sample is one value of a time series.
type Sample struct {
	// Name is the name of a descriptor.
	Name string
	// Labels are the values of the descriptor's label keys; a missing one is empty.
	// Samples may share the map, which is only read.
	Labels map[string]string
	Value  uint64
	// Gauge says that the value may decrease; otherwise it is a counter.
	Gauge bool
	// At is the time of the measurement; zero means now.
	At time.Time
}
