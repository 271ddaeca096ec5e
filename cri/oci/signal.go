package oci

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kernel's real-time signals; a C library reserves the first two for itself.
const (
	rtMin = 34
	rtMax = 64
)

// parseSignal reads "SIGTERM", "TERM", "15", "SIGRTMIN+3", "SIGRTMINPLUS3" (the CRI's
// spelling) and the like. It returns 0 for a name that is no signal.
func parseSignal(name string) unix.Signal {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= rtMax {
		return unix.Signal(n)
	}
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s
	}
	rest, ok := strings.CutPrefix(name, "SIGRT")
	if !ok {
		return 0
	}
	rest = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(rest)
	for prefix, base := range map[string]int{"MIN": rtMin, "MAX": rtMax} {
		offset, ok := strings.CutPrefix(rest, prefix)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(offset)
		if err != nil && offset != "" {
			return 0
		}
		if s := base + n; s >= rtMin && s <= rtMax {
			return unix.Signal(s)
		}
	}
	return 0
}

// signalOf returns the CRI's value for a signal, the runtime's default if it has none.
func signalOf(sig unix.Signal) runtimeapi.Signal {
	name := strings.TrimPrefix(unix.SignalName(sig), "SIG")
	switch {
	case sig == rtMin || sig == rtMax:
		name = map[unix.Signal]string{rtMin: "RTMIN", rtMax: "RTMAX"}[sig]
	case sig > rtMin && sig <= rtMin+15:
		name = "RTMINPLUS" + strconv.Itoa(int(sig-rtMin))
	case sig > rtMin && sig < rtMax:
		name = "RTMAXMINUS" + strconv.Itoa(int(rtMax-sig))
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_SIG"+name])
}
