package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/cri/oci/image"
)

func newImageRemoveCommand(root *string) *cobra.Command {
	var how removal
	cmd := &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images with all their names",
		Long: `IMAGE is a name or an ID, of which a unique prefix is enough. Containers of a removed image
keep running; the layers that they use are deleted with them. Images that the node was
started with are pinned, as "nodekit image ls -o wide" shows, and are only removed with
--force.`,
		Args: someArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, refs []string) error {
			s, err := existingImages(cmd, *root)
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range refs {
				errs = append(errs, how.remove(cmd, s, ref))
			}
			return errors.Join(errs...)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return imageNames(cmd, *root), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&how.ignoreNotFound, "ignore-not-found", false, "do not fail if an image does not exist")
	cmd.Flags().BoolVar(&how.force, "force", false, "also remove pinned images")
	return cmd
}

// removal says how images are removed.
type removal struct{ ignoreNotFound, force bool }

func (r removal) remove(cmd *cobra.Command, s *image.Store, ref string) error {
	id, err := resolveImage(cmd, s, ref)
	if err != nil {
		return err
	}
	if id == "" {
		if r.ignoreNotFound {
			return nil
		}
		return fmt.Errorf("image %q is not in the store: nodekit image ls lists those that are", ref)
	}
	im, err := s.Status(cmd.Context(), id)
	if err != nil {
		return err
	}
	if im.GetPinned() && !r.force {
		return fmt.Errorf("image %q is pinned: the node was started with it (--image-archive) or told to keep it (--pin-image); --force removes it", ref)
	}
	if err := s.Remove(cmd.Context(), id); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "image %s removed\n", ref)
	return err
}

// resolveImage returns the ID of the image that ref refers to, or "". A name takes
// precedence over a prefix of an ID that reads the same.
func resolveImage(cmd *cobra.Command, s *image.Store, ref string) (id string, err error) {
	im, statusErr := s.Status(cmd.Context(), ref)
	if im != nil {
		return im.Id, nil
	}
	all, err := s.List()
	if err != nil {
		return "", err
	}
	const shortest = 4 // digits; less would be a guess
	start := "sha256:" + strings.TrimPrefix(ref, "sha256:")
	if len(start) < len("sha256:")+shortest {
		return "", statusErr
	}
	var found []string
	for _, im := range all {
		if strings.HasPrefix(im.Id, start) {
			found = append(found, im.Id)
		}
	}
	switch len(found) {
	case 0:
		return "", statusErr
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%q is the beginning of %d image IDs: give more of it", ref, len(found))
}

// imageNames returns what the shell completes for an image.
func imageNames(cmd *cobra.Command, root string) (names []string) {
	s, err := openImages(cmd, root)
	if err != nil {
		return nil
	}
	all, err := s.List()
	if err != nil {
		return nil
	}
	for _, im := range all {
		names = slices.Concat(names, im.RepoTags)
	}
	return names
}
