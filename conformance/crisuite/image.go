package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

const identitySentence = "When referring to the same image, the container runtime MUST always return the same value for: [...] Image.id [...] Container.image_id [...] ContainerStatus.image_id [...] PullImageResponse.image_ref"

func imageRules() []rule {
	return []rule{
		must("CRI-IMG-001", "answers ImageStatus of an image that is not present with no image and no error",
			"ImageStatus", "If the image is not present, returns a response with ImageStatusResponse.Image set to nil.", checkAbsentImage, Pull),
		must("CRI-IMG-002", "shows a pulled image in its status and in the list, with an id, its tag and a size",
			"Image", "Size of the image in bytes. Must be > 0.", checkImageStatus, Pull),
		must("CRI-IMG-003", "names an image by one id in all answers",
			"PullImageResponse", identitySentence, checkImageIdentity, Pull, Containers, ImageIdentity),
		must("CRI-IMG-004", "removes an image, and again without an error",
			"RemoveImage", "This call is idempotent, and must not return an error if the image has already been removed.", checkRemoveImage, Pull),
		must("CRI-IMG-005", "removes an image with all its tags, of other repositories too",
			"RemoveImage", "Note that if the image is referenced by multiple tags (even across different repositories if they resolve to the same image digest), removing the image by a single tag will remove all of its tags.", checkRemoveTags, Pull),
		must("CRI-IMG-006", "lists one image with both its tags",
			"Image", "Other names by which this image is known.", checkTwoTags, Pull),
		relied("CRI-IMG-007", "finds an image by its id, its tag and its digest",
			"EnsureImageExists", "The kubelet asks for images by the name in the Pod, and by the id that the runtime gave it.", checkImageNames, Pull),
		must("CRI-IMG-008", "says which user an image's program is run as",
			"Image", "UID that will run the command(s). This is used as a default if no user is specified when creating the container.", checkImageUser, Pull),
		relied("CRI-IMG-009", "reports a file system for images that is there, and what images take of it",
			"image GC", "The kubelet does not start when ImageFsInfo fails, and starts to remove images by what it says.", checkFsInfo),
		heavy(facto("CRI-IMG-010", "reports more used by images behind a pull",
			"image GC", "The kubelet removes images until ImageFsInfo reports less.", checkFsInfoGrows, Pull)),
		facto("CRI-IMG-011", "filters the images that it lists by their name",
			"ListImages", "ImageFilter has the image that a client asks for.", checkImageFilter, Pull),
		should("CRI-IMG-012", "gives extra information of an image only to those who ask for it",
			"ImageStatusResponse", "It should only be returned non-empty when Verbose is true.", checkImageInfo, Pull),
		facto("CRI-IMG-013", "runs a container on whose image was removed beneath it",
			"image GC", "The kubelet asks to remove images by their age; what is in use must stay whole.", checkRemoveInUse, Pull, Containers),
		relied("CRI-IMG-014", "pins no image because a client pulled it, and says the same of each image in its status and in the list",
			"image GC", "The kubelet removes no image that is pinned in the list: if all are, they fill the disk.", checkUnpinned, Pull),
		must("CRI-IMG-015", "says that an image is pinned which it pins, and removes it when it is asked to",
			"Image", "It must only be treated as a recommendation -- the client can still request that the image be deleted, and the runtime must oblige.", checkPinned),
	}
}

func (s *subject) image(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	resp, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return nil, fmt.Errorf("ImageStatus of %q: %w", ref, err)
	}
	return resp.GetImage(), nil
}

// unpull removes an image that belongs to the rule.
func (s *subject) unpull(ctx context.Context, image string) {
	if err := s.removeImage(context.WithoutCancel(ctx), s.images.ref(image)); err != nil {
		s.in.Log.Warn("removing the rule's image", "err", err)
	}
}

func (s *subject) removeImage(ctx context.Context, ref string) error {
	if _, err := s.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		return fmt.Errorf("RemoveImage of %q: %w", ref, err)
	}
	return nil
}

// own pulls an image that no other rule has.
func (s *subject) own(ctx context.Context) (repository, ref, id string, err error) {
	repository = uniqueRepo + s.mark
	ref = s.images.ref(repository + ":v1")
	id, err = s.pull(ctx, ref)
	return repository, ref, id, err
}

func checkAbsentImage(ctx context.Context, s *subject) error {
	absent := "conformance.nodekit.dev/" + s.mark + "/absent:v1"
	im, err := s.image(ctx, absent)
	if err != nil {
		return fmt.Errorf("of an image that is not present: %w", err)
	}
	if im != nil {
		return fmt.Errorf("ImageStatus of %q, which is not present, shows %v", absent, im)
	}
	return nil
}

func checkImageStatus(ctx context.Context, s *subject) error {
	repository, ref, id, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	im, err := s.image(ctx, ref)
	if err != nil {
		return err
	}
	if im.GetId() == "" || im.GetSize() == 0 || !slices.Contains(im.GetRepoTags(), ref) {
		return fmt.Errorf("ImageStatus of the pulled %q shows %v, want an id, a size and the tag", ref, im)
	}
	listed, err := s.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("ListImages: %w", err)
	}
	for _, l := range listed.GetImages() {
		if l.GetId() == im.GetId() {
			if l.GetSize() != im.GetSize() || !sameSet(l.GetRepoTags(), im.GetRepoTags()) || !sameSet(l.GetRepoDigests(), im.GetRepoDigests()) {
				return fmt.Errorf("ListImages shows %v, and ImageStatus %v", l, im)
			}
			return nil
		}
	}
	return fmt.Errorf("ListImages does not show the pulled image %q", id)
}

// sameSet reports whether two lists have the same names, in any order.
func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func checkImageIdentity(ctx context.Context, s *subject) error {
	repository, ref, id, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	im, err := s.image(ctx, ref)
	if err != nil {
		return err
	}
	b, err := s.box(ctx, forever, func(c *runtimeapi.ContainerConfig) { c.Image.Image = id })
	if err != nil {
		return err
	}
	defer func() { _ = b.remove(ctx) }() // otherwise the image is in use; close removes the container, too
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{Id: b.id})
	if err != nil {
		return err
	}
	if len(all) != 1 || im.GetId() != id || st.GetImageId() != id || all[0].GetImageId() != id {
		return fmt.Errorf("PullImage answered %q, and the ids are %q in ImageStatus, %q in ContainerStatus and in ListContainers %v", id, im.GetId(), st.GetImageId(), all)
	}
	return nil
}

func checkRemoveImage(ctx context.Context, s *subject) error {
	_, ref, _, err := s.own(ctx)
	if err != nil {
		return err
	}
	im, err := s.image(ctx, ref)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := s.removeImage(ctx, ref); err != nil {
			return fmt.Errorf("call %d: %w", i+1, err)
		}
	}
	if err := s.without(ctx, ref); err != nil {
		return err
	}
	listed, err := s.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("ListImages: %w", err)
	}
	for _, l := range listed.GetImages() {
		if l.GetId() == im.GetId() || slices.Contains(l.GetRepoTags(), ref) {
			return fmt.Errorf("the removed image %q is still in ListImages: %v", ref, l)
		}
	}
	return nil
}

// twice pulls one image under two tags.
func (s *subject) twice(ctx context.Context) (one, two string, err error) {
	_, one, _, err = s.own(ctx)
	if err != nil {
		return "", "", err
	}
	two = strings.TrimSuffix(one, ":v1") + ":v2"
	_, err = s.pull(ctx, two)
	return one, two, err
}

func checkRemoveTags(ctx context.Context, s *subject) error {
	one, two, err := s.twice(ctx)
	if err != nil {
		return err
	}
	if err := s.removeImage(ctx, one); err != nil {
		return err
	}
	im, err := s.image(ctx, two)
	if err == nil && im != nil {
		return errors.Join(fmt.Errorf("%q was removed, and ImageStatus of %q, which is the same image, shows %v", one, two, im), s.removeImage(ctx, two))
	}
	return err
}

func checkTwoTags(ctx context.Context, s *subject) error {
	one, two, err := s.twice(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(s.removeImage(ctx, one), s.removeImage(ctx, two)) }()
	im, err := s.image(ctx, one)
	if err == nil && (!slices.Contains(im.GetRepoTags(), one) || !slices.Contains(im.GetRepoTags(), two)) {
		return fmt.Errorf("the image has the tags %q, want %q and %q", im.GetRepoTags(), one, two)
	}
	return err
}

func checkImageNames(ctx context.Context, s *subject) error {
	repository, ref, id, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	digest, err := s.images.digest(repository)
	if err != nil {
		return err
	}
	byDigest := s.images.ref(repository) + "@" + digest
	im, err := s.image(ctx, ref)
	if err != nil {
		return err
	}
	if !slices.Contains(im.GetRepoDigests(), byDigest) {
		return fmt.Errorf("the image has the digests %q, want %q", im.GetRepoDigests(), byDigest)
	}
	for _, name := range []string{id, im.GetId(), byDigest} {
		found, err := s.image(ctx, name)
		if err != nil {
			return err
		}
		if found.GetId() != im.GetId() {
			return fmt.Errorf("ImageStatus of %q shows %v, want image %q", name, found, im.GetId())
		}
	}
	return nil
}

func checkImageUser(ctx context.Context, s *subject) error {
	for _, c := range [][2]string{{uidImage, "1000"}, {userImage, "worker"}, {groupImage, "worker"}, {mainImage, ""}} {
		image, want := c[0], c[1]
		ref, err := s.present(ctx, image)
		if err != nil {
			return err
		}
		im, err := s.image(ctx, ref)
		if err != nil {
			return err
		}
		got := im.GetUsername()
		if im.GetUid() != nil {
			got = fmt.Sprint(im.GetUid().GetValue())
		}
		if got != want && !(want == "" && (got == "0" || got == "root")) {
			return fmt.Errorf("ImageStatus of %q shows the user %q, want %q", image, got, want)
		}
	}
	return nil
}

func (s *subject) fsInfo(ctx context.Context) (*runtimeapi.FilesystemUsage, error) {
	resp, err := s.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ImageFsInfo: %w", err)
	}
	if len(resp.GetImageFilesystems()) == 0 {
		return nil, errors.New("ImageFsInfo reports no file system")
	}
	return resp.GetImageFilesystems()[0], nil
}

func checkFsInfo(ctx context.Context, s *subject) error {
	fs, err := s.fsInfo(ctx)
	if err != nil {
		if errors.Is(err, cri.ErrUnimplemented) && slices.Contains(s.target.Lacks, Containers) {
			return unimplemented("ImageFsInfo", err)
		}
		return err
	}
	mountpoint := fs.GetFsId().GetMountpoint()
	info, err := os.Stat(mountpoint)
	if err != nil || !filepath.IsAbs(mountpoint) || !info.IsDir() {
		return fmt.Errorf("ImageFsInfo reports the file system %q, which is no directory: %w", mountpoint, errors.Join(err, errors.New("the kubelet measures it")))
	}
	if fs.GetUsedBytes() == nil {
		return fmt.Errorf("ImageFsInfo reports the file system %q without used bytes (used_bytes, 0 if need be): the kubelet does not look whether they are there, and ends", mountpoint)
	}
	return recent(fs.GetTimestamp())
}

func checkFsInfoGrows(ctx context.Context, s *subject) error {
	before, err := s.fsInfo(ctx)
	if err != nil {
		return err
	}
	repository, _, _, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	const fsTime = 15 * time.Second // containerd checks every ten seconds
	return until(ctx, fsTime, func() error {
		after, err := s.fsInfo(ctx)
		if err == nil && (after.GetUsedBytes().GetValue() <= before.GetUsedBytes().GetValue() || after.GetUsedBytes().GetValue() == 0) {
			return fmt.Errorf("ImageFsInfo reports %d bytes used, and before the pull %d", after.GetUsedBytes().GetValue(), before.GetUsedBytes().GetValue())
		}
		return err
	})
}

func checkImageFilter(ctx context.Context, s *subject) error {
	repository, ref, id, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	for _, c := range []struct {
		name string
		want []string
	}{{ref, []string{id}}, {s.images.ref(absentRepo + "x:v1"), nil}} {
		resp, err := s.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: c.name}}})
		if err != nil {
			return fmt.Errorf("ListImages with a filter: %w", err)
		}
		if err := exactly(resp.GetImages(), c.want...); err != nil {
			return fmt.Errorf("ListImages of %q: %w", c.name, err)
		}
	}
	return nil
}

func checkImageInfo(ctx context.Context, s *subject) error {
	ref, err := s.present(ctx, mainImage)
	if err != nil {
		return err
	}
	for _, verbose := range []bool{false, true} {
		resp, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Verbose: verbose})
		if err != nil {
			return fmt.Errorf("ImageStatus, verbose %v: %w", verbose, err)
		}
		if !verbose && len(resp.GetInfo()) > 0 {
			return fmt.Errorf("ImageStatus that is not verbose has the information %.200q", resp.GetInfo())
		}
		if err := isJSON(resp.GetInfo()); err != nil {
			return err
		}
	}
	return nil
}

// checkRemoveInUse allows a runtime to refuse the removal.
func checkRemoveInUse(ctx context.Context, s *subject) error {
	_, ref, _, err := s.own(ctx)
	if err != nil {
		return err
	}
	b, err := s.box(ctx, "do", func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref }, do("echo ready", "sleep 300ms", "cat /name"))
	if err != nil {
		return err
	}
	defer func() { _ = s.removeImage(context.WithoutCancel(ctx), ref) }()
	if err := b.says(ctx, "ready"); err != nil {
		return err
	}
	_ = s.removeImage(ctx, ref) // it may fail or succeed
	st, err := b.exited(ctx)
	if err != nil {
		return err
	}
	if st.GetExitCode() != 0 {
		return fmt.Errorf("the image was removed beneath a container, whose program then ended with code %d", st.GetExitCode())
	}
	return nil
}
