package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// featuresLimit is how long an OCI runtime may take to report its features.
const featuresLimit = 10 * time.Second

// heeds refuses a spec with a property that the OCI runtime would ignore: runtimes ignore
// what they do not know. The CRI cannot express any of these; NRI plugins and CDI devices
// may set them. The error is fault.FailedPrecondition, and names them as runtime-spec
// does.
func (e engine) heeds(ctx context.Context, doc *specs.Spec) error {
	if !wantsNew(doc) {
		return nil // nearly always: the runtime need not be asked
	}
	ctx, cancel := context.WithTimeout(ctx, featuresLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.path, "features")
	cmd.WaitDelay = outputPatience // a wrapper's child may outlive it
	text, err := cmd.Output()
	var can features.Features
	if err == nil {
		err = json.Unmarshal(text, &can)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("asking %s for its features: %w", e.path, ctx.Err())
	}
	if err != nil { // runtimes older than the command know none of them
		can = features.Features{}
	}
	if names := passedOver(doc, &can); len(names) > 0 {
		return fault.FailedPrecondition.Errorf("the OCI runtime %s does not know %s of the spec: another one, or a later version of it, may", e.path, strings.Join(names, ", "))
	}
	return nil
}

// wantsNew reports whether the spec has a property newer than OCI runtimes that are still
// in use.
func wantsNew(doc *specs.Spec) bool { return len(passedOver(doc, &features.Features{})) > 0 }

// passedOver names the properties that an OCI runtime with these features does not know.
func passedOver(doc *specs.Spec, can *features.Features) (names []string) {
	linux := can.Linux
	if linux == nil {
		linux = &features.Linux{}
	}
	check := func(wanted, known bool, name string) {
		if wanted && !known {
			names = append(names, name)
		}
	}
	if p := doc.Process; p != nil {
		const minor = 1 // version 1.1 introduced both
		check(p.Scheduler != nil, knows(can.OCIVersionMax, minor), "process.scheduler")
		check(p.IOPriority != nil, knows(can.OCIVersionMax, minor), "process.ioPriority")
	}
	l := doc.Linux
	if l == nil {
		return names
	}
	check(len(l.NetDevices) > 0, linux.NetDevices != nil && is(linux.NetDevices.Enabled), "linux.netDevices")
	if p := l.MemoryPolicy; p != nil {
		has := linux.MemoryPolicy
		known := has != nil && slices.Contains(has.Modes, string(p.Mode)) &&
			!slices.ContainsFunc(p.Flags, func(f specs.MemoryPolicyFlagType) bool { return !slices.Contains(has.Flags, string(f)) })
		check(true, known, "linux.memoryPolicy")
	}
	if r := l.IntelRdt; r != nil {
		check(len(r.Schemata) > 0, linux.IntelRdt != nil && is(linux.IntelRdt.Schemata), "linux.intelRdt.schemata")
		check(r.EnableMonitoring, linux.IntelRdt != nil && is(linux.IntelRdt.Monitoring), "linux.intelRdt.enableMonitoring")
	}
	return names
}

func is(b *bool) bool { return b != nil && *b }

// knows reports whether a version of runtime-spec, "1.2.0-dev" say, is 1.minor or later.
func knows(version string, minor int) bool {
	major, rest, _ := strings.Cut(version, ".")
	middle, _, _ := strings.Cut(rest, ".")
	ma, err := strconv.Atoi(major)
	if err != nil {
		return false
	}
	mi, err := strconv.Atoi(middle)
	return err == nil && (ma > 1 || ma == 1 && mi >= minor)
}
