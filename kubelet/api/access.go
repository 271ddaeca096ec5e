package api

import (
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The access reviews of "kubectl auth", and of programs that check before they act.
// They are answered, not stored: who the client is by its certificate, and that it may
// do everything.

var (
	authenticationVersion = schema.GroupVersion{Group: "authentication.k8s.io", Version: "v1"}
	authorizationVersion  = schema.GroupVersion{Group: "authorization.k8s.io", Version: "v1"}
)

// questions returns the handlers of these requests by path below /apis.
func (s *Server) questions() map[string]handler {
	return map[string]handler{
		"authentication.k8s.io/v1/selfsubjectreviews":      s.whoAmI,
		"authorization.k8s.io/v1/selfsubjectaccessreviews": s.mayI,
		"authorization.k8s.io/v1/selfsubjectrulesreviews":  s.whatMayI,
	}
}

// client returns who the client is by its certificate; "" without one.
func client(r *http.Request) (user string, groups []string) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", nil
	}
	subject := r.TLS.PeerCertificates[0].Subject
	return subject.CommonName, subject.Organization
}

func (s *Server) whoAmI(w http.ResponseWriter, r *http.Request) error {
	var review authenticationv1.SelfSubjectReview
	if err := s.decode(r, &review); err != nil {
		return err
	}
	review.Status = authenticationv1.SelfSubjectReviewStatus{}
	if user, groups := client(r); user != "" {
		review.Status.UserInfo = authenticationv1.UserInfo{Username: user, Groups: slices.Concat(groups, []string{"system:authenticated"})}
	}
	review.SetGroupVersionKind(authenticationVersion.WithKind("SelfSubjectReview"))
	return s.send(w, r, http.StatusCreated, &review)
}

// allowed is the reason why a client may do everything.
const allowed = "who has a certificate of this node may do everything"

func (s *Server) mayI(w http.ResponseWriter, r *http.Request) error {
	var review authorizationv1.SelfSubjectAccessReview
	if err := s.decode(r, &review); err != nil {
		return err
	}
	review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: allowed}
	review.SetGroupVersionKind(authorizationVersion.WithKind("SelfSubjectAccessReview"))
	return s.send(w, r, http.StatusCreated, &review)
}

func (s *Server) whatMayI(w http.ResponseWriter, r *http.Request) error {
	var review authorizationv1.SelfSubjectRulesReview
	if err := s.decode(r, &review); err != nil {
		return err
	}
	every := []string{"*"}
	review.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{{Verbs: every, APIGroups: every, Resources: every}},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: every, NonResourceURLs: every}},
	}
	review.SetGroupVersionKind(authorizationVersion.WithKind("SelfSubjectRulesReview"))
	return s.send(w, r, http.StatusCreated, &review)
}

// questionResources returns these requests' resources in a group and version, for
// discovery.
func questionResources(gv schema.GroupVersion) []metav1.APIResource {
	ask := func(name, kind string) metav1.APIResource {
		return metav1.APIResource{Name: name + "s", SingularName: name, Kind: kind, Verbs: metav1.Verbs{"create"}}
	}
	switch gv {
	case authenticationVersion:
		return []metav1.APIResource{ask("selfsubjectreview", "SelfSubjectReview")}
	case authorizationVersion:
		return []metav1.APIResource{
			ask("selfsubjectaccessreview", "SelfSubjectAccessReview"), ask("selfsubjectrulesreview", "SelfSubjectRulesReview"),
		}
	}
	return nil
}
