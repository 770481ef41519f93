// Does what its input says, a command on each line, with sentry-go.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/getsentry/sentry-go"
)

func exception() {
	crumb := sentry.Breadcrumb{Category: "cart", Message: "added a book", Level: "info"}
	crumb.Data = map[string]interface{}{"count": 2}
	sentry.AddBreadcrumb(&crumb)
	sentry.CaptureException(fmt.Errorf("outer: %w", fmt.Errorf("middle: %w", errors.New("inner"))))
}

func at(milliseconds int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, milliseconds*1e6, time.UTC)
}

func transaction() {
	root := sentry.StartSpan(context.Background(), "task", sentry.TransactionName("checkout"))
	outer := root.StartChild("http.client")
	outer.Description = "GET /price"
	inner := outer.StartChild("db")
	inner.Description = "SELECT 1"
	inner.StartTime, inner.EndTime = at(100), at(140)
	outer.StartTime, outer.EndTime = at(50), at(200)
	root.StartTime, root.EndTime = at(0), at(250)
	inner.Finish()
	outer.Finish()
	root.Status = sentry.SpanStatusOK
	root.Finish()
}

func twice() {
	event := sentry.NewEvent()
	event.EventID, event.Message = "fc6d8c0c43fc4630ad850ee518f1b9d0", "twice"
	sentry.CaptureEvent(event)
	sentry.CaptureEvent(event)
}

func main() {
	options := sentry.ClientOptions{Dsn: os.Getenv("DSN"), Release: "shop@1.2.3", Environment: "testing", TracesSampleRate: 1}
	if err := sentry.Init(options); err != nil {
		panic(err)
	}
	sentry.ConfigureScope(func(scope *sentry.Scope) {
		scope.SetUser(sentry.User{ID: "42", Email: "dev@example.com"})
		scope.SetTag("region", "us-east")
	})
	commands := map[string]func(){"exception": exception, "transaction": transaction, "twice": twice}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); fmt.Println("done") {
		if words := strings.SplitN(lines.Text(), " ", 2); words[0] == "message" {
			event := sentry.NewEvent()
			event.Message, event.Level = words[1], sentry.LevelWarning
			sentry.CaptureEvent(event)
		} else {
			commands[words[0]]()
		}
		sentry.Flush(20 * time.Second)
	}
}
