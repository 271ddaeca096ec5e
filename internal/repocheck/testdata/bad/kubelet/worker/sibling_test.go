package worker

import _ "github.com/nodekit-project/nodekit/kubelet/volume"
