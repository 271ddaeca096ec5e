//go:build darwin && arm64

package cri

import _ "github.com/nodekit-project/nodekit/cri/oci"
