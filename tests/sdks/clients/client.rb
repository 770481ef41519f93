# Does what its input says, a command on each line, with sentry-ruby.
require "sentry-ruby"

$stdout.sync = true

Sentry.init do |config|
  config.dsn = ENV["DSN"]
  config.release = "shop@1.2.3"
  config.environment = "testing"
  config.traces_sample_rate = 1.0
  config.background_worker_threads = 0
  config.logger = Logger.new($stderr)
end
Sentry.set_user(id: 42, email: "dev@example.com")
Sentry.set_tags(region: "us-east")

START = Time.utc(2026, 1, 2, 3, 4, 5).to_f

def exception
  Sentry.add_breadcrumb(
    Sentry::Breadcrumb.new(category: "cart", message: "added a book", level: "info", data: { count: 2 })
  )
  begin
    begin
      begin
        raise KeyError, "inner"
      rescue KeyError
        raise ArgumentError, "middle"
      end
    rescue ArgumentError
      raise "outer"
    end
  rescue RuntimeError => error
    Sentry.capture_exception(error)
  end
end

def transaction
  transaction = Sentry.start_transaction(
    name: "checkout", op: "task", start_timestamp: START, timestamp: START + 0.25, status: "ok"
  )
  outer = transaction.start_child(
    op: "http.client", description: "GET /price", start_timestamp: START + 0.05, timestamp: START + 0.2
  )
  outer.start_child(op: "db", description: "SELECT 1", start_timestamp: START + 0.1, timestamp: START + 0.14)
  transaction.finish
end

def twice
  event = Sentry.get_current_client.event_from_message("twice")
  2.times { Sentry.send_event(event) }
end

$stdin.each_line(chomp: true) do |line|
  command, text = line.split(" ", 2)
  begin
    command == "message" ? Sentry.capture_message(text, level: :warning) : send(command)
  rescue Sentry::ExternalError => error
    warn error.message
  end
  puts "done"
end
