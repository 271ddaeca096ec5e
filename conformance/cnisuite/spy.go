package cnisuite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// spyName is the type of the scripted IPAM plugin.
const spyName = "suite-ipam"

// spy is an IPAM plugin that notes every call and answers ADD with what was
// prepared. It is a shell script with builtin commands alone, so it needs no
// PATH and is not killed half-way through a note.
type spy struct{ dir string }

const spyScript = `#!/bin/sh
here=%q
who="$CNI_CONTAINERID.$CNI_IFNAME"
while read -r line || [ -n "$line" ]; do :; done
[ -n "$CNI_CONTAINERID" ] && echo "$CNI_COMMAND" >> "$here/$who.calls"
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
ADD) while read -r line; do echo "$line"; done < "$here/$who.result" ;;
esac
exit 0
`

func (s spy) install() error {
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, spyName), fmt.Appendf(nil, spyScript, s.dir), 0o755)
}

func (s spy) file(c *container, kind string) string {
	return filepath.Join(s.dir, c.id+"."+c.ifName+"."+kind)
}

// prepare decides the address that the container will get.
func (s spy) prepare(c *container, version string, number int) error {
	answer := fmt.Sprintf(`{"cniVersion":%q,"ips":[{"address":"10.123.%d.%d/16","gateway":"10.123.0.1"}]}`+"\n",
		version, 1+number/250, 1+number%250)
	return os.WriteFile(s.file(c, "result"), []byte(answer), 0o644)
}

// calls returns the commands that the plugin delegated, in order.
func (s spy) calls(c *container) ([]string, error) {
	content, err := os.ReadFile(s.file(c, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(content)), err
}
