// Does what its input says, a command on each line, with the SDK that preceded sentry-go. It posts to /store/.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/getsentry/raven-go"
)

var user = &raven.User{ID: "42", Email: "dev@example.com"}

func exception() *raven.Packet {
	trace := raven.NewStacktrace(0, 3, nil)
	values := []*raven.Exception{
		raven.NewException(errors.New("inner"), nil),
		raven.NewException(fmt.Errorf("outer: %w", errors.New("inner")), trace),
	}
	return raven.NewPacket("outer", raven.Exceptions{Values: values}, user)
}

func message(text string) *raven.Packet {
	packet := raven.NewPacket(text, &raven.Message{Message: text}, user)
	packet.Level = raven.WARNING
	return packet
}

func send(packet *raven.Packet) {
	_, sent := raven.Capture(packet, nil)
	if err := <-sent; err != nil {
		panic(err)
	}
}

func main() {
	raven.SetDSN(os.Getenv("DSN"))
	raven.SetRelease("shop@1.2.3")
	raven.SetEnvironment("testing")
	raven.SetTagsContext(map[string]string{"region": "us-east"})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); fmt.Println("done") {
		switch words := strings.SplitN(lines.Text(), " ", 2); words[0] {
		case "exception":
			send(exception())
		case "message":
			send(message(words[1]))
		case "twice":
			for i := 0; i < 2; i++ {
				packet := message("twice")
				packet.EventID = "fc6d8c0c43fc4630ad850ee518f1b9d1"
				send(packet)
			}
		}
	}
}
