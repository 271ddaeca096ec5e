package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// metrics serves metrics.k8s.io/v1beta1 for kubectl top from the kubelet's
// /stats/summary, as the metrics server does in a cluster.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(metricsVersion.WithResource("").GroupResource(), strings.ToLower(r.Method))
	}
	_, parts := split(r.URL.Path)
	namespace := ""
	if len(parts) > 2 && parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource, name := "", ""
	if len(parts) > 0 {
		resource = parts[0]
	}
	if len(parts) == 2 {
		name = parts[1]
	}
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return apierrors.NewBadRequest("labelSelector: " + err.Error())
	}
	summary, err := s.summary(r)
	if err != nil {
		return err
	}
	switch {
	case len(parts) <= 2 && resource == "nodes":
		return s.nodeMetrics(w, summary, name)
	case len(parts) <= 2 && resource == "pods":
		return s.podMetrics(w, summary, namespace, name, selector)
	}
	return apierrors.NewNotFound(metricsVersion.WithResource(strings.Join(parts, "/")).GroupResource(), name)
}

// summary gets the kubelet's statistics.
func (s *Server) summary(r *http.Request) (*stats.Summary, error) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://kubelet/stats/summary", nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.config.Kubelet.RoundTrip(request)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable("asking the kubelet for statistics: " + err.Error())
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, apierrors.NewServiceUnavailable("asking the kubelet for statistics: " + answer.Status)
	}
	var summary stats.Summary
	if err := json.NewDecoder(answer.Body).Decode(&summary); err != nil {
		return nil, fmt.Errorf("reading the kubelet's statistics: %w", err)
	}
	return &summary, nil
}

func (s *Server) nodeMetrics(w http.ResponseWriter, summary *stats.Summary, name string) error {
	m := metricsv1beta1.NodeMetrics{
		TypeMeta:   metav1.TypeMeta{Kind: "NodeMetrics", APIVersion: metricsVersion.String()},
		ObjectMeta: metav1.ObjectMeta{Name: summary.Node.NodeName, CreationTimestamp: metav1.Now()},
		Window:     metav1.Duration{Duration: window(summary.Node.CPU)}, Usage: usage(summary.Node.CPU, summary.Node.Memory),
	}
	m.Timestamp = m.CreationTimestamp
	switch name {
	case "":
		return s.sendJSON(w, metricsv1beta1.NodeMetricsList{
			TypeMeta: metav1.TypeMeta{Kind: "NodeMetricsList", APIVersion: metricsVersion.String()}, Items: []metricsv1beta1.NodeMetrics{m},
		})
	case m.Name:
		return s.sendJSON(w, m)
	}
	return apierrors.NewNotFound(metricsVersion.WithResource("nodes").GroupResource(), name)
}

func (s *Server) podMetrics(w http.ResponseWriter, summary *stats.Summary, namespace, name string, selector labels.Selector) error {
	list := metricsv1beta1.PodMetricsList{TypeMeta: metav1.TypeMeta{Kind: "PodMetricsList", APIVersion: metricsVersion.String()}, Items: []metricsv1beta1.PodMetrics{}}
	kind := find(schema.GroupVersion{Version: "v1"}, "pods")
	for i := range summary.Pods {
		p := &summary.Pods[i]
		o, err := s.config.Store.Get(kind, p.PodRef.Namespace, p.PodRef.Name)
		if err != nil || namespace != "" && namespace != p.PodRef.Namespace || name != "" && name != p.PodRef.Name || !selector.Matches(labels.Set(o.GetLabels())) {
			continue
		}
		list.Items = append(list.Items, onePodMetrics(p, o))
	}
	if name == "" {
		return s.sendJSON(w, list)
	}
	if len(list.Items) == 0 {
		return apierrors.NewNotFound(metricsVersion.WithResource("pods").GroupResource(), name)
	}
	return s.sendJSON(w, list.Items[0])
}

func onePodMetrics(p *stats.PodStats, o object.Object) metricsv1beta1.PodMetrics {
	m := metricsv1beta1.PodMetrics{
		TypeMeta:   metav1.TypeMeta{Kind: "PodMetrics", APIVersion: metricsVersion.String()},
		ObjectMeta: metav1.ObjectMeta{Name: p.PodRef.Name, Namespace: p.PodRef.Namespace, Labels: o.GetLabels(), CreationTimestamp: metav1.Now()},
		Containers: []metricsv1beta1.ContainerMetrics{},
	}
	m.Timestamp = m.CreationTimestamp
	for i := range p.Containers {
		c := &p.Containers[i]
		m.Window.Duration = max(m.Window.Duration, window(c.CPU))
		m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: usage(c.CPU, c.Memory)})
	}
	slices.SortFunc(m.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return strings.Compare(a.Name, b.Name) })
	return m
}

func usage(cpu *stats.CPUStats, memory *stats.MemoryStats) v1.ResourceList {
	list := v1.ResourceList{v1.ResourceCPU: *resource.NewScaledQuantity(0, resource.Nano), v1.ResourceMemory: *resource.NewQuantity(0, resource.BinarySI)}
	if cpu != nil && cpu.UsageNanoCores != nil {
		list[v1.ResourceCPU] = *resource.NewScaledQuantity(int64(*cpu.UsageNanoCores), resource.Nano) //nolint:gosec // a machine has fewer cores than that
	}
	if memory != nil && memory.WorkingSetBytes != nil {
		list[v1.ResourceMemory] = *resource.NewQuantity(int64(*memory.WorkingSetBytes), resource.BinarySI) //nolint:gosec // and less memory
	}
	return list
}

// window returns the period over which the kubelet measured the CPU usage.
func window(cpu *stats.CPUStats) time.Duration {
	if cpu == nil {
		return 0
	}
	return statsWindow
}

// statsWindow is the time between two samples of the kubelet, which its summary does
// not contain.
const statsWindow = 10 * time.Second
