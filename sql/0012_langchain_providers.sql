-- LangChain names a provider after the class that calls it, and Sentry's SDK for Python sends that name. These names join
-- those of 0009, so that such calls find their prices.
CREATE OR REPLACE FUNCTION opensentry.model_provider(provider text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce('{
        "az.ai.inference": "azure.ai.inference", "azure_ai": "azure.ai.inference",
        "az.ai.openai": "azure.ai.openai", "azure": "azure.ai.openai", "azure_text": "azure.ai.openai",
        "azure-openai-chat": "azure.ai.openai", "anthropic-chat": "anthropic",
        "aws": "aws.bedrock", "aws_bedrock": "aws.bedrock", "bedrock": "aws.bedrock",
        "bedrock_converse": "aws.bedrock", "bedrock_mantle": "aws.bedrock", "amazon_bedrock": "aws.bedrock",
        "amazon_bedrock_chat": "aws.bedrock", "amazon_bedrock_converse_chat": "aws.bedrock",
        "anthropic-bedrock-chat": "aws.bedrock", "cohere_chat": "cohere", "cohere-chat": "cohere",
        "chat-deepseek": "deepseek", "fireworks_ai": "fireworks", "fireworks_ai-embedding-models": "fireworks",
        "fireworks-chat": "fireworks", "gemini": "gcp.gemini", "google": "gcp.gemini",
        "google_ai_studio": "gcp.gemini", "google_genai": "gcp.gemini", "google_gemini": "gcp.gemini",
        "chat-google-generative-ai": "gcp.gemini", "groq-chat": "groq",
        "mistral": "mistral_ai", "mistralai": "mistral_ai", "mistralai-chat": "mistral_ai", "chat-ollama": "ollama",
        "text-completion-openai": "openai", "openai-chat": "openai", "openrouter-chat": "openrouter",
        "perplexitychat": "perplexity",
        "together": "together_ai", "togetherai": "together_ai", "together-chat": "together_ai",
        "google_vertexai": "gcp.vertex_ai", "vertex_ai": "gcp.vertex_ai", "vertexai": "gcp.vertex_ai",
        "anthropic-chat-vertexai": "gcp.vertex_ai", "watsonx": "ibm.watsonx.ai", "xai": "x_ai", "xai-chat": "x_ai"
    }'::jsonb ->> lower(provider), lower(provider))
$$;

-- Prices that somebody listed under such a name, which is no longer looked up. One under the right name stays.
INSERT INTO opensentry.model_prices
SELECT opensentry.model_provider(provider), model, valid_from, input_usd, cached_input_usd, cache_write_usd, output_usd
FROM opensentry.model_prices
WHERE provider <> opensentry.model_provider(provider)
ON CONFLICT DO NOTHING;

DELETE FROM opensentry.model_prices WHERE provider <> opensentry.model_provider(provider);
