package tools

import _ "github.com/nodekit-project/nodekit/cri/oci"
