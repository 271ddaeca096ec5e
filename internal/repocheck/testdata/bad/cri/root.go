package cri

import _ "github.com/nodekit-project/nodekit/cni"
