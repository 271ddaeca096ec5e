package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func newImageCommand() *cobra.Command {
	root := "/var/lib/nodekit"
	cmd := &cobra.Command{
		Use:   "image",
		Short: "List, load, pull, remove and create images of a node",
		Long: `Manage the images of the reference runtime, which are in ROOT/oci/images. The node may be
running; it sees each change at once.`,
	}
	cmd.PersistentFlags().StringVar(&root, "root", root, "`directory` of the node")
	cmd.AddCommand(
		newImageListCommand(&root),
		newImageLoadCommand(&root),
		newImagePullCommand(&root),
		newImageRemoveCommand(&root),
		newImagePackCommand(),
	)
	return cmd
}

// existingImages is openImages for commands that are pointless without a node's images: a
// mistyped directory is not created.
func existingImages(cmd *cobra.Command, root string) (*image.Store, error) {
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return nil, fault.NotFound.Errorf("there is no node at %q: name its directory with --root", root)
	}
	return openImages(cmd, root)
}

// openImages opens the store of the node at root, and logs its warnings where the
// command prints errors.
func openImages(cmd *cobra.Command, root string) (*image.Store, error) {
	return openImagesAt(cmd, root, "")
}

// openImagesAt is openImages for a pull: hosts says where from.
func openImagesAt(cmd *cobra.Command, root, hosts string) (*image.Store, error) {
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := image.Open(filepath.Join(root, "oci", "images"), &image.Options{Logger: log, Hosts: hosts})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: run it with sudo, or name your own directory with --root", err)
	}
	return s, err
}

// imageRow is an image as the commands print it.
type imageRow struct {
	ID      string   `json:"id"`
	Names   []string `json:"names"`
	Digests []string `json:"digests"`
	Size    uint64   `json:"size"`
	User    string   `json:"user,omitempty"`
	Pinned  bool     `json:"pinned,omitempty"`
}

func imageRows(all []*runtimeapi.Image) (rows []imageRow) {
	for _, im := range all {
		r := imageRow{ID: im.Id, Names: orEmpty(im.RepoTags), Digests: orEmpty(im.RepoDigests), Size: im.Size, User: im.Username, Pinned: im.Pinned}
		if im.Uid != nil {
			r.User = fmt.Sprint(im.Uid.Value)
		}
		rows = append(rows, r)
	}
	return rows
}

// orEmpty makes the JSON [] instead of null.
func orEmpty(list []string) []string { return append([]string{}, list...) }

// imageColumns returns columns with one line for an image, or for each of its names.
func imageColumns() []column[imageRow] {
	return []column[imageRow]{
		{title: "NAME", value: func(r imageRow) string { return orNone(r.Names) }},
		{title: "IMAGE ID", value: func(r imageRow) string { return shortID(r.ID) }},
		{title: "SIZE", value: func(r imageRow) string { return size(r.Size) }},
		{title: "USER", wide: true, value: func(r imageRow) string { return r.User }},
		{title: "PINNED", wide: true, value: func(r imageRow) string { return yesNo(r.Pinned) }},
		{title: "DIGEST", wide: true, value: func(r imageRow) string { return orNone(r.Digests) }},
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "<none>"
	}
	return strings.Join(list, ",")
}

func shortID(id string) string {
	hex := strings.TrimPrefix(id, "sha256:")
	return hex[:min(12, len(hex))]
}

func newImageListCommand(root *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    noArgs,
	}
	format := addOutputFlag(cmd, "wide", "name", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := existingImages(cmd, *root)
		if err != nil {
			return err
		}
		all, err := s.List()
		if err != nil {
			return err
		}
		return printImages(cmd, format, imageRows(all))
	}
	return cmd
}

// printImages prints the images sorted by name, with one line per name in a table.
func printImages(cmd *cobra.Command, format *outputFormat, rows []imageRow) error {
	if format.value == "" || format.value == "wide" {
		var lines []imageRow
		for _, r := range rows {
			for _, name := range r.Names {
				line := r
				line.Names = []string{name}
				lines = append(lines, line)
			}
			if len(r.Names) == 0 {
				lines = append(lines, r)
			}
		}
		rows = lines
	}
	slices.SortStableFunc(rows, func(a, b imageRow) int { return strings.Compare(imageName(a), imageName(b)) })
	return printObjects(cmd.OutOrStdout(), format, rows, imageColumns(), imageName)
}

// imageName is what "ls -o name" prints and the other commands take.
func imageName(r imageRow) string {
	if len(r.Names) == 0 {
		return r.ID
	}
	return r.Names[0]
}

func newImageLoadCommand(root *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "load ARCHIVE...",
		Short: "Load images from archives",
		Long: `An archive is what "docker save", "podman save", "skopeo copy" or "nodekit image pack" writes:
a docker archive or an OCI archive, compressed or not, or the directory of an OCI layout.`,
		Args: someArgs("ARCHIVE"),
	}
	format := addOutputFlag(cmd, "name", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, archives []string) error {
		s, err := openImages(cmd, *root)
		if err != nil {
			return err
		}
		for _, path := range archives {
			names, err := s.Load(cmd.Context(), path)
			if err != nil {
				return err
			}
			if err := report(cmd, s, format, "loaded", names); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// report prints what happened to images, or the images in the requested format.
func report(cmd *cobra.Command, s *image.Store, format *outputFormat, what string, refs []string) error {
	var images []*runtimeapi.Image
	for _, ref := range refs {
		if format.value == "" {
			fmt.Fprintf(cmd.OutOrStdout(), "image %s %s\n", ref, what)
			continue
		}
		im, err := s.Status(cmd.Context(), ref)
		if err != nil {
			return err
		}
		if im != nil && !slices.ContainsFunc(images, func(other *runtimeapi.Image) bool { return other.Id == im.Id }) {
			images = append(images, im)
		}
	}
	if format.value == "" {
		return nil
	}
	return printImages(cmd, format, imageRows(images))
}

func newImagePackCommand() *cobra.Command {
	var name, output string
	cmd := &cobra.Command{
		Use:   "pack --name NAME --output ARCHIVE PROGRAM",
		Short: "Create an image from a statically linked program",
		Long: `The image contains the program, as its entrypoint, and empty directories and files for the
mounts of container runtimes (/dev, /proc, /sys, /etc/hosts, ...). The archive can be loaded
with "nodekit image load", "docker load" and "ctr images import". The same program always
gives the same archive, byte for byte.`,
		Args: oneArg("PROGRAM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			archive, err := image.Pack(args[0], name)
			if err != nil {
				return err
			}
			if output == "-" {
				_, err = cmd.OutOrStdout().Write(archive)
				return err
			}
			if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
				return err
			}
			return atomicfile.Write(output, archive, 0o644)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`name` of the image, like nodekit.dev/podtool:latest")
	cmd.Flags().StringVar(&output, "output", "", "`file` to write, - for standard output")
	for _, required := range []string{"name", "output"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // only when the flag, added above, is not there
		}
	}
	return cmd
}
