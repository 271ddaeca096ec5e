package cnisuite

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/nodekit-project/nodekit/conformance"
)

// joined is a container after its ADD.
func (l *lab) joined(ctx context.Context) (*container, *result, error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, nil, err
	}
	r, err := l.add(ctx, c)
	return c, r, err
}

// attachmentRules are about ADD and DEL in detail.
func attachmentRules() []conformance.Rule[Target] {
	return slices.Concat(addRules(), resultRules(), prevRules(), paramRules(), delegateRules(), delRules(), concurrentRules(), dataRules())
}

// ofItsOwn derives an attachment's capability arguments from the sample, so that no
// two attachments request the same address or port: only the first gets what cannot
// be shared, and others get other host ports.
func ofItsOwn(sample map[string]any, number int) map[string]any {
	out := maps.Clone(sample)
	if number <= 1 {
		return out
	}
	for _, name := range []string{"mac", "ips", "infinibandGUID", "deviceID"} {
		delete(out, name)
	}
	mappings, _ := out["portMappings"].([]any)
	mappings = slices.Clone(mappings)
	for i, mapping := range mappings {
		entry, _ := mapping.(map[string]any)
		port, err := strconv.Atoi(fmt.Sprint(entry["hostPort"]))
		if err != nil {
			continue
		}
		const lowest, span = 1024, 64000
		entry = maps.Clone(entry)
		entry["hostPort"] = lowest + (port+number*len(mappings))%span
		mappings[i] = entry
	}
	if mappings != nil {
		out["portMappings"] = mappings
	}
	return out
}
