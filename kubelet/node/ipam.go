package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// refusesIPAM reports whether a CNI plugin rejects a configuration with the key "ipam",
// because it assigns no addresses or does so in its own way. CNI has no command to
// query that, but an error for it: code 2 with the name of the key. A plugin without
// STATUS returns another error, and gets the key.
func refusesIPAM(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conf := fmt.Sprintf(`{"cniVersion":%q,"name":"nodekit","type":%q,"ipam":{"type":"host-local"}}`, cni.Newest, filepath.Base(path))
	_, err := cni.Exec(ctx, path, map[string]string{"CNI_COMMAND": "STATUS", "CNI_PATH": filepath.Dir(path)}, []byte(conf), nil)
	var refusal *cni.Error
	return errors.As(err, &refusal) && refusal.Code == cni.CodeUnsupportedField && strings.Contains(refusal.Msg, "ipam")
}
