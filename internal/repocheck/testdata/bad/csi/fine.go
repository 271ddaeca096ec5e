package csi

import _ "github.com/nodekit-project/nodekit/internal/fault"
