package metrics

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Names that every version of the Prometheus format accepts.
const (
	metricName = `^[a-zA-Z_:][a-zA-Z0-9_:]*$`
	labelName  = `^[a-zA-Z_][a-zA-Z0-9_]*$`
)

// Check returns fault.Invalid for descriptors that a kubelet could not publish.
func Check(descriptors []*runtimeapi.MetricDescriptor) error {
	metric, label := regexp.MustCompile(metricName), regexp.MustCompile(labelName)
	names := map[string]bool{}
	for _, d := range descriptors {
		name := d.GetName()
		if !metric.MatchString(name) || names[name] {
			return fault.Invalid.Errorf("metric descriptor %q: the name must be unique and match %s", name, metricName)
		}
		names[name] = true
		keys := map[string]bool{}
		for _, k := range d.GetLabelKeys() {
			if !label.MatchString(k) || strings.HasPrefix(k, "__") || keys[k] {
				return fault.Invalid.Errorf("metric descriptor %q: the label %q must be unique, match %s and not begin with __", name, k, labelName)
			}
			keys[k] = true
		}
	}
	return nil
}

// values returns the sample's label values in the order of its descriptor. seen has the
// earlier samples of the same object.
func (c *Collector) values(s Sample, seen map[string]bool) ([]string, error) {
	keys, ok := c.keys[s.Name]
	if !ok {
		return nil, fmt.Errorf("no descriptor has this name")
	}
	values, known := make([]string, len(keys)), 0
	for i, k := range keys {
		v, has := s.Labels[k]
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("the label %q is not UTF-8", k)
		}
		if values[i] = v; has {
			known++
		}
	}
	if known < len(s.Labels) {
		return nil, fmt.Errorf("it has labels that are not in its descriptor, which has %q: %v", keys, s.Labels)
	}
	id := fmt.Sprintf("%q %q", s.Name, values)
	if seen[id] {
		return nil, fmt.Errorf("there are two with the labels %q", values)
	}
	seen[id] = true
	return values, nil
}

// warn logs only the first omitted sample of a name: the next scrape has it again.
func (c *Collector) warn(ctx context.Context, name, of string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.warned[name] {
		return
	}
	c.warned[name] = true
	c.log.ErrorContext(ctx, "metric sample left out", "metric", name, "of", of, "err", err)
}
