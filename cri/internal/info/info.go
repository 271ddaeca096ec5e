// Package info builds the part of verbose answers that only people read. Therefore an
// error in it does not fail the answer.
package info

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
)

// Of returns what the server knows, own, overlaid with what the author's function name
// returns, each value in JSON. A nil ask adds nothing; if it panics, that is logged and
// it adds nothing. A value that cannot be encoded is replaced by the error.
func Of(log *slog.Logger, own map[string]any, name string, ask func() map[string]any) map[string]string {
	all := maps.Clone(own)
	if all == nil {
		all = map[string]any{}
	}
	if ask != nil {
		_ = flight.Guard(log, name, func() error { maps.Copy(all, ask()); return nil })
	}
	text := make(map[string]string, len(all))
	for key, value := range all {
		data, err := json.Marshal(value)
		if err != nil {
			data, _ = json.Marshal(fmt.Sprintf("%s: %v", name, err)) // a string always has JSON
		}
		text[key] = string(data)
	}
	return text
}
