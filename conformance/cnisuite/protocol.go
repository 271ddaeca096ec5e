package cnisuite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// protocolRules are about single executions.
func protocolRules() []conformance.Rule[Target] {
	version := rule("CNI-VERSION-001", conformance.Must, "VERSION echoes the version and lists what is supported",
		"VERSION Success", "cniVersion: The value of cniVersion specified on input; supportedVersions: A list of supported specification versions")
	version.Check = inLab(checkVersion)
	env := rule("CNI-ERROR-001", conformance.Must, "missing variables are an error of code 4 that names them",
		"Error", "4: Invalid necessary environment variables, like CNI_COMMAND, CNI_CONTAINERID, etc. The error message must contain the names of invalid variables")
	env.Check = inLab(checkMissingVariables)
	inError := rule("CNI-ERROR-002", conformance.Should, "an error object carries the protocol version",
		"Error", "cniVersion: The protocol version in use")
	inError.Check = inLab(checkErrorVersion)
	unsupported := rule("CNI-ERROR-003", conformance.Must, "an unsupported version is an error of code 1",
		"Error", "1: Incompatible CNI version")
	unsupported.Check = inLab(checkUnsupportedVersion)
	return []conformance.Rule[Target]{version, env, inError, unsupported}
}

func checkVersion(ctx context.Context, l *lab) error {
	for _, v := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		out, err := l.exec(ctx, map[string]string{"CNI_COMMAND": "VERSION"}, fmt.Appendf(nil, `{"cniVersion":%q}`, v))
		if err != nil {
			return err
		}
		var answer struct {
			CNIVersion        string   `json:"cniVersion"`
			SupportedVersions []string `json:"supportedVersions"`
		}
		if err := out.success("VERSION", &answer); err != nil {
			return err
		}
		if answer.CNIVersion != v {
			return fmt.Errorf("VERSION of cniVersion %q was answered with cniVersion %q", v, answer.CNIVersion)
		}
		if len(answer.SupportedVersions) == 0 {
			return fmt.Errorf("VERSION listed no supportedVersions: %s", out.stdout)
		}
	}
	return nil
}

// checkMissingVariables leaves CNI_COMMAND alone: an execution without it is no
// call of CNI, and plugins answer it with a line about themselves.
func checkMissingVariables(ctx context.Context, l *lab) error {
	c, err := l.newContainer(ctx)
	if err != nil {
		return err
	}
	config, err := l.request(c, nil)
	if err != nil {
		return err
	}
	for _, missing := range []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"} {
		env := l.env("ADD", c)
		delete(env, missing)
		out, err := l.exec(ctx, env, config)
		if err != nil {
			return err
		}
		e, err := out.failure("ADD without " + missing)
		if err != nil {
			return err
		}
		if e.Code != 4 || !strings.Contains(e.Msg+e.Details, missing) {
			return fmt.Errorf("ADD without %s gave code %d, %q", missing, e.Code, e.Msg)
		}
	}
	return nil
}

func checkErrorVersion(ctx context.Context, l *lab) error {
	c, err := l.newContainer(ctx)
	if err != nil {
		return err
	}
	config, err := l.request(c, nil)
	if err != nil {
		return err
	}
	env := l.env("ADD", c)
	delete(env, "CNI_CONTAINERID")
	out, err := l.exec(ctx, env, config)
	if err != nil {
		return err
	}
	e, err := out.failure("ADD without CNI_CONTAINERID")
	if err != nil {
		return err
	}
	if e.CNIVersion == "" {
		return fmt.Errorf("the error object has no cniVersion: %s", out.stdout)
	}
	return nil
}

func checkUnsupportedVersion(ctx context.Context, l *lab) error {
	c, err := l.newContainer(ctx)
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "DEL"} {
		config, err := l.request(c, map[string]any{"cniVersion": "99.0.0"})
		if err != nil {
			return err
		}
		out, err := l.exec(ctx, l.env(command, c), config)
		if err != nil {
			return err
		}
		e, err := out.failure(command + " of cniVersion 99.0.0")
		if err != nil {
			return err
		}
		if e.Code != 1 {
			return fmt.Errorf("%s of cniVersion 99.0.0 gave code %d instead of 1: %q", command, e.Code, e.Msg)
		}
	}
	return nil
}

// answer is what one execution gave.
type answer struct {
	rc     int
	stdout []byte
	stderr []byte
}

func (a *answer) String() string {
	return fmt.Sprintf("exit status %d, stdout %q, stderr %q", a.rc, a.stdout, a.stderr)
}

// success expects exit status 0 and, where into is given, one JSON document.
func (a *answer) success(what string, into any) error {
	if a.rc != 0 {
		return fmt.Errorf("%s failed: %s", what, a)
	}
	if into == nil {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(a.stdout)))
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%s: stdout is no JSON document: %w: %s", what, err, a)
	}
	if dec.More() {
		return fmt.Errorf("%s: stdout has more than one JSON document: %s", what, a)
	}
	return nil
}

// errorObject is the specification's error.
type errorObject struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// failure expects another exit status than 0 and one error object.
func (a *answer) failure(what string) (*errorObject, error) {
	if a.rc == 0 {
		return nil, fmt.Errorf("%s succeeded: %s", what, a)
	}
	var e errorObject
	dec := json.NewDecoder(strings.NewReader(string(a.stdout)))
	if err := dec.Decode(&e); err != nil || e.Code == 0 || e.Msg == "" {
		return nil, fmt.Errorf("%s failed without an error object on stdout: %s", what, a)
	}
	if dec.More() {
		return nil, fmt.Errorf("%s: stdout has more than the error object: %s", what, a)
	}
	return &e, nil
}

// result is what the rules read of a result.
type result struct {
	CNIVersion string  `json:"cniVersion"`
	Interfaces []iface `json:"interfaces"`
	IPs        []struct {
		Address   string `json:"address"`
		Interface *int   `json:"interface"`
	} `json:"ips"`
}

type iface struct {
	Name    string `json:"name"`
	Mac     string `json:"mac"`
	Sandbox string `json:"sandbox"`
}

// inside returns the index of the container's interface of that name.
func (r *result) inside(name, sandbox string) int {
	return slices.IndexFunc(r.Interfaces, func(i iface) bool { return i.Name == name && i.Sandbox == sandbox })
}
