package cni

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Newest is the newest version of the specification that the SDK supports.
const Newest = "1.1.0"

// Versions returns the versions that the SDK supports, oldest first: all that were ever
// published. Versions before 0.3.0 have no plugin chains, no interfaces in results, and
// only one address per family.
func Versions() []string {
	return []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", Newest}
}

// since returns the version that introduced the verb.
func since(command string) string {
	switch command {
	case CmdCheck:
		return "0.4.0"
	case CmdGC, CmdStatus:
		return "1.1.0"
	}
	return Versions()[0]
}

func supported(version string) bool { return slices.Contains(Versions(), version) }

// AtLeast reports whether version a is b or newer. Both have the form
// "major.minor.patch"; parts that are not numbers count as 0.
func AtLeast(a, b string) bool {
	return slices.Compare(numbers(a), numbers(b)) >= 0
}

func numbers(version string) []int {
	out := make([]int, 3)
	for i, s := range strings.SplitN(version, ".", 3) {
		out[i], _ = strconv.Atoi(s)
	}
	return out
}

// DecodeResult decodes a result of any published version of the specification. A
// document without a cniVersion is read as one of the given version. An error object is
// an error: its members are unknown to a result, so it would pass for an empty one.
func DecodeResult(data []byte, version string) (*Result, error) {
	var head struct {
		CNIVersion string            `json:"cniVersion"`
		Interfaces []json.RawMessage `json:"interfaces"`
		IPs        []json.RawMessage `json:"ips"`
		Routes     []json.RawMessage `json:"routes"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("decoding result: %w", inWords(err))
	}
	if e, is := decodeError(data); is && e.Code != 0 && e.Msg != "" {
		return nil, fmt.Errorf("decoding result: it is an error object, of code %d", e.Code)
	}
	for _, entry := range slices.Concat(head.Interfaces, head.IPs, head.Routes) {
		if string(entry) == "null" { // which the conversions of package types do not expect
			return nil, fmt.Errorf("decoding result: an entry of a list is null")
		}
	}
	if head.CNIVersion == "" {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(data, &object); err != nil || object == nil {
			return nil, fmt.Errorf("decoding result: it is not a JSON object")
		}
		object["cniVersion"], _ = json.Marshal(version)
		data, _ = json.Marshal(object)
		head.CNIVersion = version
	}
	old, err := create.Create(head.CNIVersion, data)
	if err != nil {
		return nil, fmt.Errorf("decoding result: %w", inWords(err))
	}
	result, err := types100.NewResultFromResult(old)
	if err != nil {
		return nil, fmt.Errorf("converting result: %w", err)
	}
	return result, nil
}

// EncodeResult encodes the result as a document of the given version. It omits
// interface fields that the version does not have and, before 0.3.0, everything but
// addresses and plain routes. A nil entry in a list is an error.
func EncodeResult(r *Result, version string) ([]byte, error) {
	if slices.Contains(r.Interfaces, nil) || slices.Contains(r.IPs, nil) || slices.Contains(r.Routes, nil) {
		return nil, fmt.Errorf("encoding result: an entry of a list is nil")
	}
	as := *r
	as.CNIVersion = Newest
	if version != Newest {
		as = before110(as)
	}
	converted, err := as.GetAsVersion(version)
	if err != nil {
		return nil, fmt.Errorf("converting result to version %s: %w", version, err)
	}
	var document any = converted
	if current, ok := converted.(*Result); ok {
		document = written(current)
	}
	out, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("encoding result: %w", err)
	}
	return out, nil
}

// written returns the document of a result since 1.0.0. The result's own MarshalJSON
// goes through JSON three times in order to omit an empty DNS.
func written(r *Result) any {
	type fields Result // without its methods
	out := struct {
		*fields
		DNS *types.DNS `json:"dns,omitempty"` // hides that of fields
	}{fields: (*fields)(r)}
	if !r.DNS.IsEmpty() {
		out.DNS = &r.DNS
	}
	return out
}

// before110 omits the interface fields introduced in 1.1.0. The attributes of routes,
// which are as new, stay: an older network can have them too, and whoever configures
// or checks an IPAM plugin's result would otherwise take the routes for different
// ones.
func before110(r Result) Result {
	interfaces := r.Interfaces
	r.Interfaces = make([]*types100.Interface, len(interfaces))
	for i, nic := range interfaces {
		r.Interfaces[i] = &types100.Interface{Name: nic.Name, Mac: nic.Mac, Sandbox: nic.Sandbox}
	}
	return r
}

// Merge returns prev extended by r: the interfaces, addresses and routes of r follow
// those of prev, and the DNS of r, if set, replaces that of prev. A plugin that creates
// an additional interface in a chain returns Merge(r.PrevResult, own). If prev is nil,
// Merge returns r. It changes neither argument.
func Merge(prev, r *Result) *Result {
	if prev == nil {
		return r
	}
	out := &Result{
		CNIVersion: r.CNIVersion,
		Interfaces: slices.Concat(prev.Interfaces, r.Interfaces),
		IPs:        slices.Clone(prev.IPs),
		Routes:     slices.Concat(prev.Routes, r.Routes),
		DNS:        prev.DNS,
	}
	for _, ip := range r.IPs {
		ip = ip.Copy()
		if ip.Interface != nil {
			*ip.Interface += len(prev.Interfaces)
		}
		out.IPs = append(out.IPs, ip)
	}
	if !r.DNS.IsEmpty() {
		out.DNS = r.DNS
	}
	return out
}
