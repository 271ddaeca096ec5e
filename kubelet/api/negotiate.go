package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// The supported media types.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

// codecs are the serializers of the media types.
type codecs struct {
	byType     map[string]runtime.SerializerInfo
	parameters runtime.ParameterCodec
}

func newCodecs() *codecs {
	c := &codecs{byType: map[string]runtime.SerializerInfo{}, parameters: runtime.NewParameterCodec(object.Scheme())}
	for _, info := range serializer.NewCodecFactory(object.Scheme()).SupportedMediaTypes() {
		c.byType[info.MediaType] = info
	}
	return c
}

// shape is the requested form of a response.
type shape struct {
	media string
	info  runtime.SerializerInfo
	// as is "" for the objects themselves, or "Table", "PartialObjectMetadata" or
	// "PartialObjectMetadataList" (API conventions, "as" in the Accept header).
	as string
}

// accepted returns the first supported shape in the Accept header.
func (s *Server) accepted(r *http.Request) (shape, error) {
	header := r.Header.Get("Accept")
	if header == "" {
		header = mediaJSON
	}
	for clause := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		if media == "*/*" || media == "application/*" {
			media = mediaJSON
		}
		info, ok := s.codecs.byType[media]
		if ok && (params["as"] == "" || params["v"] == "v1" && params["g"] == "meta.k8s.io" && asKnown(params["as"], media)) {
			return shape{media, info, params["as"]}, nil
		}
	}
	return shape{}, notAcceptable(header, "objects are", mediaJSON, mediaYAML, mediaProtobuf)
}

func notAcceptable(asked, what string, spoken ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: fmt.Sprintf("none of what the request accepts (%s) is spoken here: %s told as %s", asked, what, strings.Join(spoken, ", ")),
	}}
}

// asKnown reports whether the media type can carry objects in this form. A Table has no
// protobuf.
func asKnown(as, media string) bool {
	return as == "Table" && media != mediaProtobuf || as == "PartialObjectMetadata" || as == "PartialObjectMetadataList"
}

// body reads a request's body and returns it with its media type.
func body(r *http.Request) (data []byte, media string, err error) {
	if text := r.Header.Get("Content-Type"); text != "" {
		if media, _, err = mime.ParseMediaType(text); err != nil {
			return nil, "", apierrors.NewBadRequest(fmt.Sprintf("Content-Type %q: %v", text, err))
		}
	}
	data, err = io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, "", apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the request has more than %d MiB", maxBody>>20))
	}
	if err != nil {
		return nil, "", apierrors.NewBadRequest("reading the request: " + err.Error())
	}
	return data, media, nil
}

// decode reads the body into into, which need not be of a kind that the node keeps:
// options, or the argument of a subresource. An empty body leaves it unchanged.
func (s *Server) decode(r *http.Request, into runtime.Object) error {
	data, media, err := body(r)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return err
	}
	if media == "" {
		media = mediaJSON
	}
	info, ok := s.codecs.byType[media]
	if !ok {
		return unspoken(media)
	}
	got, gvk, err := info.Serializer.Decode(data, nil, into)
	if err != nil {
		return apierrors.NewBadRequest("decoding the request: " + err.Error())
	}
	if got != into {
		return apierrors.NewBadRequest(fmt.Sprintf("the request carries a %s, which is not asked for here", gvk.Kind))
	}
	return nil
}

func unspoken(media string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("Content-Type %q is not spoken here: want %s, %s or %s", media, mediaJSON, mediaYAML, mediaProtobuf),
	}}
}

// options decodes a request's query.
func (s *Server) options(r *http.Request, into runtime.Object) error {
	if err := s.codecs.parameters.DecodeParameters(r.URL.Query(), schema.GroupVersion{Version: "v1"}, into); err != nil {
		return apierrors.NewBadRequest("reading the query: " + err.Error())
	}
	return nil
}

// revisionIn parses a resourceVersion; "" is zero.
func revisionIn(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %q is not a number", text))
	}
	return n, nil
}
