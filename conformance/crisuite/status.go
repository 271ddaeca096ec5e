package crisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func runtimeRules() []rule {
	return []rule{
		must("CRI-STATUS-001", "says who it is and reports both required conditions",
			"RuntimeCondition", "The required conditions include: [...] RuntimeReady [...] NetworkReady", checkStatus),
		must("CRI-STATUS-002", "has versions that are semver-compatible",
			"VersionResponse", "Version of the container runtime. The string must be semver-compatible. [...] API version of the container runtime. The string must be semver-compatible.", checkVersions),
		must("CRI-STATUS-003", "gives extra information only to those who ask for it, as JSON",
			"StatusResponse", "It should only be returned non-empty when Verbose is true.", checkVerbose),
		must("CRI-STATUS-004", "has one handler of each name",
			"RuntimeHandler", "Name must be unique in StatusResponse.", checkHandlerNames),
		facto("CRI-STATUS-005", "says which cgroup driver it uses, and says the same again",
			"startup", "The kubelet takes the cgroup driver from RuntimeConfig at its start, and without an answer from its own configuration, which may be the other one.", checkRuntimeConfig),
		facto("CRI-STATUS-006", "takes a new Pod CIDR",
			"UpdateRuntimeConfig", "The kubelet tells the runtime the node's Pod CIDR whenever it changes, and reports an error as the node's network not being ready.", checkPodCIDR),
	}
}

func checkStatus(ctx context.Context, s *subject) error {
	v, err := s.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("Version: %w", err)
	}
	if v.GetVersion() == "" || v.GetRuntimeName() == "" || v.GetRuntimeVersion() == "" || v.GetRuntimeApiVersion() == "" {
		return fmt.Errorf("Version left a field empty: %v", v)
	}
	status, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	have := map[string]bool{}
	for _, c := range status.GetStatus().GetConditions() {
		have[c.GetType()] = true
	}
	if !have[runtimeapi.RuntimeReady] || !have[runtimeapi.NetworkReady] {
		return fmt.Errorf("Status reports the conditions %v, want RuntimeReady and NetworkReady among them", status.GetStatus().GetConditions())
	}
	if !condition(status, runtimeapi.RuntimeReady) {
		return errors.New("RuntimeReady is false, and without it nothing else can be tested")
	}
	return nil
}

// semver is loose: those who compare versions allow a leading v and missing parts.
var semver = regexp.MustCompile(`^v?[0-9]+(\.[0-9]+(\.[0-9]+)?)?([-+~][0-9A-Za-z.+~-]+)?$`)

func checkVersions(ctx context.Context, s *subject) error {
	v, err := s.Runtime.Version(ctx, &runtimeapi.VersionRequest{Version: "v1"})
	if err != nil {
		return fmt.Errorf("Version: %w", err)
	}
	for _, version := range []string{v.GetRuntimeVersion(), v.GetRuntimeApiVersion()} {
		if !semver.MatchString(version) {
			return fmt.Errorf("Version answered %q, which is not semver-compatible", version)
		}
	}
	return nil
}

func checkVerbose(ctx context.Context, s *subject) error {
	quiet, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	verbose, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return fmt.Errorf("Status, verbose: %w", err)
	}
	if len(quiet.GetInfo()) > 0 {
		return fmt.Errorf("Status that is not verbose has the information %.200q", quiet.GetInfo())
	}
	return isJSON(verbose.GetInfo())
}

// isJSON allows plain strings as values, which containerd has always had.
func isJSON(info map[string]string) error {
	for key, value := range info {
		if len(value) > 0 && (value[0] == '{' || value[0] == '[') && !json.Valid([]byte(value)) {
			return fmt.Errorf("the information %q is no JSON: %.200q", key, value)
		}
	}
	return nil
}

func checkHandlerNames(ctx context.Context, s *subject) error {
	status, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	seen := map[string]bool{}
	for _, h := range status.GetRuntimeHandlers() {
		if seen[h.GetName()] {
			return fmt.Errorf("Status has the handler %q twice", h.GetName())
		}
		seen[h.GetName()] = true
	}
	return nil
}

func checkRuntimeConfig(ctx context.Context, s *subject) error {
	first, err := s.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil {
		return fmt.Errorf("RuntimeConfig: %w", err)
	}
	if first.GetLinux() == nil {
		return errors.New("RuntimeConfig says nothing of Linux")
	}
	again, err := s.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil {
		return fmt.Errorf("RuntimeConfig: %w", err)
	}
	if first.GetLinux().GetCgroupDriver() != again.GetLinux().GetCgroupDriver() {
		return fmt.Errorf("RuntimeConfig answered %v and then %v", first.GetLinux().GetCgroupDriver(), again.GetLinux().GetCgroupDriver())
	}
	return nil
}

func checkPodCIDR(ctx context.Context, s *subject) error {
	_, err := s.Runtime.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "198.18.0.0/24"}},
	})
	if err != nil {
		return fmt.Errorf("UpdateRuntimeConfig: %w", err)
	}
	return nil
}
