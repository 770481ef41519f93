# Does what its input says, a command on each line, with the SDK that preceded sentry-ruby. It posts to /store/.
require "sentry-raven"
require_relative "causes"

$stdout.sync = true

Raven.configure do |config|
  config.dsn = ENV["DSN"]
  config.release = "shop@1.2.3"
  config.current_environment = "testing"
  config.logger = Logger.new($stderr)
end
Raven.user_context(id: 42, email: "dev@example.com")
Raven.tags_context(region: "us-east")

def exception
  Raven.breadcrumbs.record do |crumb|
    crumb.category = "cart"
    crumb.message = "added a book"
    crumb.level = "info"
    crumb.data = { count: 2 }
  end
  Raven.capture_exception(exception_with_causes)
end

def twice
  event_id = SecureRandom.uuid.delete("-")
  2.times { Raven.capture_message("twice", id: event_id) }
end

$stdin.each_line(chomp: true) do |line|
  command, text = line.split(" ", 2)
  command == "message" ? Raven.capture_message(text, level: "warning") : send(command)
  puts "done"
end
