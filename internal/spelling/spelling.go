// Package spelling suggests what a mistyped word may have meant.
package spelling

import "strings"

// farthest is the maximum edit distance of a suggestion.
const farthest = 2

// Meant returns ` (did you mean "x"?)` for the candidate nearest to the word, the
// first of several, or "" if none is near. It ignores case.
func Meant(word string, candidates []string) string {
	best, nearest := "", farthest+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < nearest {
			best, nearest = c, d
		}
	}
	if best == "" {
		return ""
	}
	return ` (did you mean "` + best + `"?)`
}

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
