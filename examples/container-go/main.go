// A container task in Go: one static program in an otherwise empty image.
//
//	CGO_ENABLED=0 go build -o parcel .
//
//	FROM scratch
//	COPY parcel /parcel
//	USER 65532:65532
//
// The Task then has `command: [/parcel]`.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

type order struct {
	OrderID int `json:"orderId"`
}

type result struct {
	Receipt string `json:"receipt"`
	Parcel  string `json:"parcel"`
}

// step returns the saved value of a step. If there is none, it runs the step and saves its value.
func step[T any](name string, run func() (T, error)) (T, error) {
	var value T
	url := os.Getenv("WINDLASS_URL") + "/steps/" + name
	answer, err := http.Get(url)
	if err != nil {
		return value, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return value, json.NewDecoder(answer.Body).Decode(&value)
	case http.StatusNotFound: // not saved: run it
	default:
		text, _ := io.ReadAll(answer.Body)
		return value, fmt.Errorf("step %s: %s", name, text)
	}
	if value, err = run(); err != nil {
		return value, err
	}
	body, err := json.Marshal(value)
	if err != nil {
		return value, err
	}
	saved, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return value, err
	}
	defer saved.Body.Close()
	if saved.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(saved.Body)
		return value, fmt.Errorf("step %s: %s", name, text)
	}
	return value, nil
}

func process() error {
	payload, err := os.ReadFile(os.Getenv("WINDLASS_PAYLOAD_FILE"))
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(payload, &o); err != nil {
		return err
	}
	receipt, err := step(fmt.Sprintf("charge?order=%d", o.OrderID), func() (string, error) {
		log.Printf("charging %d", o.OrderID)
		return fmt.Sprintf("receipt-%d", o.OrderID), nil
	})
	if err != nil {
		return err
	}
	parcel, err := step("ship", func() (string, error) {
		if os.Getenv("WINDLASS_ATTEMPT") == "1" {
			return "", fmt.Errorf("the carrier does not answer")
		}
		log.Print("shipping")
		return fmt.Sprintf("parcel-%d", o.OrderID), nil
	})
	if err != nil {
		return err
	}
	body, err := json.Marshal(result{receipt, parcel})
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv("WINDLASS_RESULT_FILE"), body, 0o644)
}

func main() {
	log.SetFlags(0)
	if err := process(); err != nil {
		log.Fatal(err)
	}
}
