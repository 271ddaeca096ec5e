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

// refusesIPAM reports whether a CNI plugin refuses a configuration with the key
// "ipam", as one does that gives no addresses or has its own way to them. CNI has
// no call that asks for it, but an error for it: code 2, which names the key. A
// plugin that does not know STATUS says something else, and gets the key.
func refusesIPAM(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conf := fmt.Sprintf(`{"cniVersion":%q,"name":"nodekit","type":%q,"ipam":{"type":"host-local"}}`, cni.Newest, filepath.Base(path))
	_, err := cni.Exec(ctx, path, map[string]string{"CNI_COMMAND": "STATUS", "CNI_PATH": filepath.Dir(path)}, []byte(conf), nil)
	var refusal *cni.Error
	return errors.As(err, &refusal) && refusal.Code == cni.CodeUnsupportedField && strings.Contains(refusal.Msg, "ipam")
}
