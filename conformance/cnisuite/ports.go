package cnisuite

import (
	"encoding/json"
	"strconv"
)

// portMapping is an entry of the capability portMappings (CONVENTIONS.md).
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// ownPorts gives each attachment host ports of its own where the sample
// arguments have some: a host's port cannot lead to two containers. The first
// one gets those of the sample.
func ownPorts(config map[string]any, number int) {
	args, _ := config["runtimeConfig"].(map[string]any)
	entries, _ := args["portMappings"].([]any)
	low, high := 0, 0
	for _, entry := range entries {
		if port := hostPort(entry); port > 0 {
			high = max(high, port)
			if low == 0 || port < low {
				low = port
			}
		}
	}
	for _, entry := range entries {
		if port := hostPort(entry); port > 0 {
			const first, count = 1024, 1<<16 - 1024
			port = first + (port-first+(number-1)*(high-low+1)+count)%count
			entry.(map[string]any)["hostPort"] = json.Number(strconv.Itoa(port))
		}
	}
}

// hostPort is 0 for an entry that has none.
func hostPort(entry any) int {
	fields, _ := entry.(map[string]any)
	number, _ := fields["hostPort"].(json.Number)
	port, err := strconv.Atoi(number.String())
	if err != nil {
		return 0
	}
	return port
}
